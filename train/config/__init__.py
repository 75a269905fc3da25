"""Settings composed by Hydra, checked and typed; secrets and package versions."""
