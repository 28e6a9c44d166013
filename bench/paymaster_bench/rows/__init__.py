"""The rows, a module for each family; `catalogue` lists them in the order of the report."""
