"""An HTTP server for the models of one database, with OpenAI's completions protocol: `pg-llm serve`.

request.py reads a request, completion.py answers it from the rows of database.py, app.py has the routes.
"""
