"""Widgets for notebooks: each works in JupyterLab and leaves a static picture in a saved notebook."""
