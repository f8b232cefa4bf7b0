// JupyterLab highlights every code cell as Python, where a quote or a % in SQL colours the rest as an error. This
// extension gives cells that begin with %%sql or %%check the language PostgreSQL, and back when that line goes.
// It is what a bundler would make of a prebuilt extension: a container with init and get.
var _JUPYTERLAB = typeof _JUPYTERLAB === "undefined" ? {} : _JUPYTERLAB;

_JUPYTERLAB["pg-llm"] = (() => {
  const SQL = "text/x-pgsql";
  let shared; // JupyterLab's own modules: name -> version -> { get }

  const load = async (name) => (await Object.values(shared[name])[0].get())();

  function follow(notebook) {
    const known = new WeakSet();
    const highlight = (cell) => {
      const isSql = /^\s*%%(sql|check)\b/i.test(cell.sharedModel.getSource());
      const mimeType = isSql ? SQL : cell.mimeType === SQL ? notebook.codeMimetype : cell.mimeType;
      if (cell.mimeType !== mimeType) cell.mimeType = mimeType;
    };
    const highlightAll = () => {
      for (const cell of notebook.model?.cells ?? []) {
        if (cell.type !== "code" || known.has(cell)) continue;
        known.add(cell);
        cell.contentChanged.connect(highlight);
        cell.mimeTypeChanged.connect(highlight); // the kernel's language, which comes later, is set on all cells
        highlight(cell);
      }
    };
    const open = () => {
      notebook.model?.cells.changed.connect(highlightAll);
      highlightAll();
    };
    notebook.modelChanged.connect(open);
    open();
  }

  async function plugin() {
    const { INotebookTracker } = await load("@jupyterlab/notebook");
    return {
      id: "pg-llm:sql-cells",
      description: "Highlights cells of SQL.",
      autoStart: true,
      requires: [INotebookTracker],
      activate: (app, tracker) => {
        tracker.forEach((panel) => follow(panel.content));
        tracker.widgetAdded.connect((_, panel) => follow(panel.content));
      },
    };
  }

  return {
    init: async (scope) => { shared = scope; },
    get: async () => {
      const extension = { __esModule: true, default: await plugin() };
      return () => extension;
    },
  };
})();
