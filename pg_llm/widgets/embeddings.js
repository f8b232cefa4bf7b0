// The embedding map: see embeddings.py, which draws the SVG that this makes operable.

function render({ model, el }) {
	const box = frame(model, el, `Embedding map: ${model.get("title")}`, "embeddings", draw);
	const options = make("datalist", { id: `pgl-${Math.random().toString(36).slice(2)}` });
	const search = make("input", {
		type: "search",
		class: "pgl-search",
		list: options.id,
		spellcheck: "false",
		"aria-label": "Search for a token",
		placeholder: "search for a token",
	});
	const missing = make("span", { class: "pgl-muted", role: "status" });
	const map = make("div", { class: "pgl-map" });
	const heading = make("div", { class: "pgl-heading" });
	const near = make("ol", { class: "pgl-near", "aria-label": "Nearest by cosine" });
	const sql = statement();
	box.body.append(
		make("div", { class: "pgl-row" }, search, options, missing, make("span", { class: "pgl-muted", text: "Keys on the map: arrows go to the next point in their direction." })),
		make("div", { class: "pgl-mapped" }, map, make("div", {}, heading, near)),
		sql.node,
	);
	let inMap = false; // the focus is in the map, which the next answer draws anew

	const word = (label) => label.replaceAll("␣", " ").trim();
	const points = () => [...map.querySelectorAll(".pgl-point")];
	const choose = later((key) => box.ask({ chosen: key }), 120);
	const choosing = (key) => {
		choose.stop();
		box.ask({ chosen: key });
	};

	function find() {
		const wanted = search.value.trim().toLowerCase();
		const all = model.get("view").points;
		const found = all.find((p) => word(p.label).toLowerCase() === wanted) ?? all.find((p) => wanted && word(p.label).toLowerCase().startsWith(wanted));
		missing.textContent = found || !wanted ? "" : `no point “${search.value.trim()}”`;
		if (found && found.key !== model.get("chosen")) choosing(found.key);
	}
	search.addEventListener("change", find);
	search.addEventListener("keydown", (event) => event.key === "Enter" && find());

	const centre = (node) => {
		const { x, y, width, height } = node.querySelector("path").getBBox();
		return [x + width / 2, y + height / 2];
	};

	// The nearest point within 45 degrees of an arrow's direction.
	function beside(node, key) {
		const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
		if (!way) return null;
		const [x, y] = centre(node);
		let best = null;
		let least = Infinity;
		for (const other of points()) {
			const [a, b] = centre(other);
			const along = (a - x) * way[0] + (b - y) * way[1];
			const off = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
			if (along > 0.01 && off <= along && along + off < least) [best, least] = [other, along + off];
		}
		return best;
	}

	function operable(node) {
		node.addEventListener("click", () => {
			inMap = true;
			choosing(node.dataset.key);
		});
		node.addEventListener("keydown", (event) => {
			const next = beside(node, event.key);
			if (!next) return;
			event.preventDefault();
			node.setAttribute("tabindex", "-1");
			next.setAttribute("tabindex", "0");
			next.focus();
			inMap = true;
			choose(next.dataset.key);
		});
	}

	function draw(view) {
		const key = model.get("chosen");
		inMap = map.contains(document.activeElement) || inMap;
		map.innerHTML = view.svg;
		points().forEach(operable);
		const chosen = points().find((node) => node.dataset.key === key) ?? points()[0];
		chosen?.setAttribute("tabindex", "0");
		if (inMap) chosen?.focus();
		inMap = false;
		const label = view.points.find((p) => p.key === key)?.label ?? key;
		heading.textContent = `nearest to “${word(label)}” by cosine`;
		const focused = [...near.querySelectorAll("button")].indexOf(document.activeElement);
		const known = new Set(view.points.map((p) => p.key));
		near.replaceChildren(
			...view.near.map((each) =>
				make(
					"li",
					{},
					known.has(each.key)
						? make("button", { type: "button", class: "pgl-link", text: each.label, onclick: () => choosing(each.key) })
						: make("span", { text: each.label, title: "not on the map" }),
					make("span", { class: "pgl-number", text: each.cosine.toFixed(2) }),
				),
			),
		);
		if (focused >= 0) near.querySelectorAll("button")[0]?.focus();
		options.replaceChildren(...view.points.map((p) => make("option", { value: word(p.label) })));
		sql.set(view.sql);
		box.tell(`${word(label)}: nearest ${view.near.slice(0, 3).map((each) => `${word(each.label)} ${each.cosine.toFixed(2)}`).join(", ")}`);
	}

	box.start();
	return () => {
		choose.stop();
		box.stop();
	};
}

export default { render };
