"""The machine and the process: errors, files, ranks, signals, the console."""
