"""Run by the kernels of pg-llm lab as PYTHONSTARTUP: %%sql works before the first cell of a notebook, too."""


def _prepare():
    try:
        from IPython import get_ipython

        from pg_llm.notebook import early
    except ImportError:  # another Python, in a terminal
        return
    shell = get_ipython()
    if shell is not None:
        early.register(shell)


_prepare()
del _prepare  # the file is executed among the learner's variables
