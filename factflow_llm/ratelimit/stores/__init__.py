"""Where the processes of one quota meet: a file for those of one host, Redis or Valkey for those of many."""
