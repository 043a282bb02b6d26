"""The command line beside the notebook: the same words, for terminals and for machines."""
