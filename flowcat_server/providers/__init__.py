"""Speech and language providers, one file each; the file name is the name in the YAML."""
