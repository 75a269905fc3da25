"""Writing an ORDER: from scores and a preference to a plan, and from the plan to sample ids."""
