"""What serves all of the package: errors, checks, files, threads."""
