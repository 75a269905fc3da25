"""The files of a RUN folder, by name."""
