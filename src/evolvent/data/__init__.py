"""What it reads: typed records, files, splits, tasks, and the small built-in corpora."""
