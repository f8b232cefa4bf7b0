// The tape stepper: see tape.py, which draws the graph; steps are counted 0, forward rows, the seed, rows back.

function render({ model, el }) {
	const box = frame(model, el, "", "tape", draw);
	const title = box.root.querySelector(".pgl-title");
	const picture = make("div", { class: "pgl-scroll pgl-tape-graph" });
	const table = make("div", { class: "pgl-tape-rows" });
	const line = make("div", { class: "pgl-tape-line" });
	let view = null;
	let lines = [];
	const place = slider({
		label: "step",
		min: 0,
		max: 1,
		step: 1,
		value: 0,
		format: (k) => (view ? `${k} of ${view.steps.length - 1}` : ""),
		change: (k) => choose(k),
	});
	place.node.classList.add("pgl-wide");
	const button = (text, name, move) =>
		make("button", { type: "button", class: "pgl-button", text, title: name, "aria-label": name, onclick: () => choose(move(now())) });
	box.body.append(
		make(
			"div",
			{ class: "pgl-row" },
			button("|◀", "To the beginning", () => 0),
			button("◀", "One step back", (k) => k - 1),
			button("▶", "One step on", (k) => k + 1),
			button("▶|", "To the end", () => view.steps.length - 1),
			place.node,
			make("span", { class: "pgl-muted", text: "Keys: arrows, Home, End." }),
		),
		line,
		make("div", { class: "pgl-explorer" }, picture, table),
	);
	// Arrow keys work on the graph and the rows, too; a slider has them by itself.
	for (const area of [picture, table]) {
		area.setAttribute("tabindex", "0");
		area.addEventListener("keydown", (event) => {
			const next = along(view.steps.length)(now(), event.key);
			if (next === null) return;
			event.preventDefault();
			choose(next);
		});
	}

	const now = () => Math.max(0, Math.min(view.steps.length - 1, model.get("step")));

	function choose(k) {
		model.set("step", Math.max(0, Math.min(view.steps.length - 1, k)));
		model.save_changes();
		look();
	}

	function look() {
		const step = view.steps[now()];
		place.set(now());
		line.textContent = step.text;
		line.className = `pgl-tape-line pgl-tape-${step.phase}`;
		for (const node of picture.querySelectorAll(".pgl-tape-node")) {
			const { id } = node.dataset;
			node.classList.toggle("pgl-now", step.row === id);
			node.classList.toggle("pgl-touched", step.touched.includes(id));
			node.classList.toggle("pgl-pending", !(id in step.values));
			node.querySelector(".pgl-tape-value").textContent = step.values[id] ?? "";
			node.querySelector(".pgl-tape-gradient").textContent = step.gradients[id] ?? "";
		}
		for (const use of picture.querySelectorAll(".pgl-tape-use"))
			use.classList.toggle("pgl-now", step.row !== "" && use.dataset.to === step.row && step.phase !== "seed");
		lines.forEach(({ row, node, value, gradient }) => {
			node.classList.toggle("pgl-now", row.id === step.row);
			value.textContent = step.values[row.id] ?? "";
			gradient.textContent = step.gradients[row.id] ?? "";
			if (row.id === step.row) node.scrollIntoView({ block: "nearest" });
		});
		box.tell(step.text);
	}

	function draw(seen) {
		view = seen;
		title.textContent = view.title;
		box.root.setAttribute("aria-label", view.title);
		picture.innerHTML = view.svg; // from our own Python, which escapes every name
		picture.setAttribute("aria-label", "The tape as a graph");
		table.setAttribute("aria-label", "The rows of the tape");
		lines = view.rows.map((row, k) => {
			const [value, gradient] = [make("td", { class: "pgl-tape-value" }), make("td", { class: "pgl-tape-gradient" })];
			const cells = [k + 1, row.op, row.reads.join(", "), row.makes].map((text) => make("td", { text }));
			return { row, value, gradient, node: make("tr", {}, ...cells, value, gradient) };
		});
		const head = ["row", "op", "reads", "makes", "value", "gradient"].map((text) => make("th", { text, scope: "col" }));
		table.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines.map(({ node }) => node))));
		place.input.max = view.steps.length - 1;
		look();
	}

	model.on("change:step", look);
	box.start();
	return () => {
		box.stop();
		model.off("change:step", look);
	};
}

export default { render };
