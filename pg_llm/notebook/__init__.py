"""What a Jupyter notebook uses: %%sql, query results as tables, exercises."""
