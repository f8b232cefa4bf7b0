"""Support for Jupyter notebooks: %%sql, query results as tables, exercises."""
