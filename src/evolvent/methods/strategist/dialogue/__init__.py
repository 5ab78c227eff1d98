"""Talk at the table: typed acts without a model, worksheets and listeners with one."""
