// The logit lens: see lens.py.

function render({ model, el }) {
	const box = frame(model, el, `Logit lens: what would the model say if it ended here? (${model.get("model")})`, "lens", draw);
	let view = null;
	let cells = [];
	const input = make("input", { type: "text", class: "pgl-line-input", spellcheck: "false", "aria-label": "Text" });
	const typed = later(() => box.ask({ text: input.value, position: -1 }), 500);
	input.addEventListener("input", typed);
	input.addEventListener("keydown", (event) => {
		if (event.key !== "Enter" || event.shiftKey) return;
		typed.stop();
		box.ask({ text: input.value, position: -1 });
	});
	const unknown = make("ul", { class: "pgl-notes" });
	const grid = make("div", { class: "pgl-lensgrid", role: "grid", "aria-label": "Most probable next token; rows are layers, columns tokens" });
	const heading = make("div", { class: "pgl-heading" });
	const bars = make("div", { class: "pgl-bars", role: "list", "aria-label": "Best tokens of the chosen cell" });
	const sql = statement();
	box.body.append(input, unknown, make("div", { class: "pgl-scroll" }, grid), heading, bars, sql.node);

	const T = () => view.tokens.length;
	function place() {
		const at = model.get("position") < 0 ? T() + model.get("position") : model.get("position");
		const k = view.nodes.indexOf(model.get("node"));
		return { k: k < 0 ? view.nodes.length - 1 : k, at: at >= 0 && at < T() ? at : T() - 1 };
	}

	function choose(k, at) {
		if (model.get("node") === view.nodes[k] && model.get("position") === at) return;
		model.set("node", view.nodes[k]);
		model.set("position", at);
		model.save_changes();
	}

	// The chosen cell: its mark, its bars, the SQL of its row.
	function look() {
		if (!view) return;
		const { k, at } = place();
		for (const cell of cells) {
			const here = cell.k === k && cell.at === at;
			cell.node.classList.toggle("pgl-chosen", here);
			cell.node.setAttribute("aria-selected", String(here));
		}
		const node = view.nodes[k];
		const best = view.cells[node][at];
		heading.textContent = `After ${node}, at ${shown(view.tokens[at].text)} (position ${at})`;
		bars.replaceChildren(
			...best.map((each) =>
				make(
					"div",
					{ role: "listitem", class: "pgl-bar pgl-still", "data-token": each.token, "aria-label": `${shown(each.token)} ${percent(each.probability)}` },
					make("code", { text: shown(each.token) }),
					make("span", { class: "pgl-track" }, make("span", { class: "pgl-fill", style: `width:${100 * each.probability}%` })),
					make("span", { class: "pgl-number", text: percent(each.probability) }),
				),
			),
		);
		box.tell(`${heading.textContent}: ${shown(best[0].token)} ${percent(best[0].probability)}`);
		const name = quoted(model.get("model"));
		sql.set(
			`SELECT llm_trace(${name}, llm_encode(${quoted(model.get("text"))}, ${name})) AS run;\n` +
				`SELECT softmax(llm_eval(${name}, 'logits', '{}', ARRAY[${quoted(view.last)}], ARRAY[data]))\n` +
				`FROM llm_tensor_rt WHERE run = (SELECT max(run) FROM llm_run) AND name = ${quoted(node)};`,
		);
	}

	function draw(seen) {
		view = seen;
		if (document.activeElement !== input) input.value = model.get("text");
		unknown.replaceChildren(...view.unknown.map((text) => make("li", { text })));
		const focused = grid.contains(document.activeElement);
		grid.style.gridTemplateColumns = `auto repeat(${T()}, minmax(64px, 1fr))`;
		cells = [];
		const rows = view.nodes
			.map((node, k) => {
				const items = view.cells[node].map(([best], at) => {
					const text = `${node}, ${shown(view.tokens[at].text)}: ${shown(best.token)} ${percent(best.probability)}`;
					const item = make(
						"button",
						{
							type: "button",
							role: "gridcell",
							class: "pgl-lenscell",
							style: `--pgl-share:${best.probability}`,
							"data-node": node,
							"data-position": at,
							"aria-label": text,
							title: text,
							onclick: () => choose(k, at),
							onfocus: () => choose(k, at),
						},
						make("span", { text: shown(best.token) }),
					);
					cells.push({ k, at, node: item });
					return item;
				});
				return make("div", { role: "row", class: "pgl-gridrow" }, make("span", { role: "rowheader", class: "pgl-muted", text: node }), ...items);
			})
			.reverse();
		const foot = view.tokens.map((token) => make("span", { role: "columnheader", class: "pgl-lenstoken", text: shown(token.text) }));
		grid.replaceChildren(...rows, make("div", { role: "row", class: "pgl-gridrow" }, make("span", { class: "pgl-muted", text: "token" }), ...foot));
		const { k, at } = place();
		const start = cells.findIndex((cell) => cell.k === k && cell.at === at);
		const find = (row, column) => cells.findIndex((cell) => cell.k === row && cell.at === column);
		roving(
			cells.map((cell) => cell.node),
			(i, key) => {
				const here = cells[i];
				if (key === "ArrowRight") return find(here.k, Math.min(T() - 1, here.at + 1));
				if (key === "ArrowLeft") return find(here.k, Math.max(0, here.at - 1));
				if (key === "ArrowUp") return find(Math.min(view.nodes.length - 1, here.k + 1), here.at);
				if (key === "ArrowDown") return find(Math.max(0, here.k - 1), here.at);
				if (key === "Home") return find(here.k, 0);
				if (key === "End") return find(here.k, T() - 1);
				return null;
			},
			start,
		);
		look();
		if (focused) cells[start].node.focus();
	}

	for (const name of ["node", "position"]) model.on(`change:${name}`, look);
	box.start();
	return () => {
		typed.stop();
		box.stop();
		for (const name of ["node", "position"]) model.off(`change:${name}`, look);
	};
}

export default { render };
