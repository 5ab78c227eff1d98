"""What happened: run folders with stages that resume, lineage, and the report."""
