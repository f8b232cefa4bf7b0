// The architecture drawing: see architecture.py, which draws the SVG that this makes operable.

function render({ model, el }) {
	const box = frame(model, el, `Architecture of ${model.get("model")}, drawn from llm_graph`, "architecture", draw);
	const picture = make("div", { class: "pgl-scroll" });
	const facts = make("div", { class: "pgl-facts", "aria-live": "polite" });
	const all = make("button", { type: "button", class: "pgl-button", text: "Unfold all blocks", onclick: () => toggleAll() });
	box.body.append(
		make("div", { class: "pgl-row" }, all, make("span", { class: "pgl-muted", text: "Click a node for its row; a block opens and closes. Keys: arrows, Enter." })),
		picture,
		facts,
	);
	let chosen = null; // column and name of the node in the panel

	function toggle(name) {
		const open = model.get("unfold");
		box.ask({ unfold: open.includes(name) ? open.filter((b) => b !== name) : [...open, name] });
	}

	function toggleAll() {
		const { blocks } = model.get("view");
		box.ask({ unfold: model.get("unfold").length ? [] : blocks });
	}

	function choose(node) {
		chosen = { column: node.dataset.column, name: node.dataset.name };
		for (const other of picture.querySelectorAll(".pgl-node")) {
			other.classList.toggle("pgl-chosen", other === node);
			other.setAttribute("tabindex", other === node ? "0" : "-1");
		}
		show(chosen.column, chosen.name);
	}

	const about = (node) => model.get("view").nodes[`${node.dataset.column}/${node.dataset.name}`];

	function show(column, name) {
		const node = model.get("view").nodes[`${column}/${name}`];
		const size = node.shape.map((s, k) => (node.sized[k] === s ? s : `${s.replace("*", "·")} = ${node.sized[k]}`));
		const line = (term, ...value) => [make("div", { class: `pgl-fact-${term.split(" ")[0]}` }, make("dt", { text: term }), make("dd", {}, ...value))];
		const code = (text) => make("code", { text });
		const list = (names) => (names.length ? names.flatMap((n, k) => (k ? [", ", code(n)] : [code(n)])) : ["none"]);
		const attrs = Object.entries(node.attrs).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
		facts.replaceChildren(
			make("h4", { text: name }),
			make(
				"dl",
				{},
				...line("op", code(node.op), node.rule ? make("div", { class: "pgl-muted", text: `shape: ${node.rule}` }) : ""),
				...line("inputs", ...list(node.inputs)),
				...line("read by", ...list(node.readers)),
				...line("shape", node.shape.length ? `(${size.join(", ")})` : "a scalar"),
				...line("attrs", attrs.length ? attrs.join(", ") : "none"),
				...line(
					"parameters",
					node.count ? `${node.count.toLocaleString("en")}` : "none",
					node.weights.length
						? make("ul", {}, ...node.weights.map((w) => make("li", {}, code(w.name), ` ${(w.shape ?? []).join(" × ")}`)))
						: "",
				),
			),
			...(node.block
				? [make("button", { type: "button", class: "pgl-button", text: node.open ? "Fold this block" : "Unfold this block", onclick: () => toggle(name) })]
				: [make("pre", { class: "pgl-sql", text: `SELECT * FROM llm_graph\nWHERE model = ${quoted(model.get("model"))}\n  AND name = ${quoted(name)};` })]),
		);
	}

	// The nearest node above, below, or in the next column.
	function neighbour(node, key) {
		const nodes = [...picture.querySelectorAll(".pgl-node")];
		const place = (other) => {
			const r = other.getBoundingClientRect();
			return [r.left + r.width / 2, r.top + r.height / 2];
		};
		const [x, y] = place(node);
		const sign = key === "ArrowUp" || key === "ArrowLeft" ? -1 : 1;
		const upright = key === "ArrowUp" || key === "ArrowDown";
		let best = null;
		let least = Infinity;
		for (const other of nodes) {
			const [ox, oy] = place(other);
			const ahead = sign * (upright ? oy - y : ox - x);
			const aside = Math.abs(upright ? ox - x : oy - y);
			if (ahead < 4 || (upright && other.dataset.column !== node.dataset.column)) continue;
			if (ahead + 3 * aside < least) [best, least] = [other, ahead + 3 * aside];
		}
		return best;
	}

	function draw(view) {
		const [left, top] = [picture.scrollLeft, picture.scrollTop];
		const focused = picture.contains(document.activeElement);
		picture.innerHTML = view.svg; // from our own Python, which escapes every name
		const nodes = [...picture.querySelectorAll(".pgl-node")];
		for (const node of nodes) {
			node.addEventListener("focus", () => choose(node));
			node.addEventListener("mousedown", () => choose(node));
			pressable(node, () => {
				choose(node);
				if (about(node).block) toggle(node.dataset.name);
			});
			node.addEventListener("keydown", (event) => {
				if (!event.key.startsWith("Arrow")) return;
				event.preventDefault();
				const next = neighbour(node, event.key);
				next?.focus();
				next?.scrollIntoView({ block: "nearest", inline: "nearest" });
			});
		}
		const again =
			nodes.find((node) => node.dataset.column === chosen?.column && node.dataset.name === chosen?.name) ??
			nodes.find((node) => node.dataset.name === chosen?.name) ??
			nodes.find((node) => about(node).block) ??
			nodes[0];
		choose(again);
		if (focused) again.focus({ preventScroll: true });
		[picture.scrollLeft, picture.scrollTop] = [left, top];
		all.textContent = model.get("unfold").length ? "Fold all blocks" : "Unfold all blocks";
	}

	box.start();
	return box.stop;
}

export default { render };
