// The attention explorer: see attention.py.

const STEP = 25; // height of a token's line
const FROM = 8;
const TO = 132; // ends of the lines in the picture between the columns

function render({ model, el }) {
	const box = frame(model, el, `Attention explorer: which tokens does each token attend to? (${model.get("model")})`, "attention", draw);
	const input = make("input", { type: "text", class: "pgl-line-input", spellcheck: "false", "aria-label": "Text" });
	const typed = later(() => box.ask({ text: input.value, query: -1 }), 500);
	input.addEventListener("input", typed);
	input.addEventListener("keydown", (event) => {
		if (event.key !== "Enter" || event.shiftKey) return;
		typed.stop();
		box.ask({ text: input.value, query: -1 });
	});
	const unknown = make("ul", { class: "pgl-notes" });
	const heading = make("div", { class: "pgl-heading" });
	const queries = make("div", { class: "pgl-tokens pgl-queries", role: "listbox", "aria-label": "Query token: which one attends" });
	const lines = make("svg:svg", { class: "pgl-lines", width: 140, "aria-hidden": "true" });
	const keys = make("div", { class: "pgl-tokens", role: "list", "aria-label": "Key tokens with their weights" });
	const grid = make("div", { class: "pgl-heads", role: "grid", "aria-label": "Heads; Enter switches one off or on" });
	const reset = make("button", { type: "button", class: "pgl-button", text: "All heads on", onclick: () => box.ask({ off: [] }) });
	const bars = make("div", { class: "pgl-bars", role: "list", "aria-label": "Next tokens" });
	const caption = make("div", { class: "pgl-heading" });
	const promise = make("div", { class: "pgl-muted" });
	const sql = statement();
	box.body.append(
		input,
		unknown,
		make(
			"div",
			{ class: "pgl-explorer" },
			make("div", {}, heading, make("div", { class: "pgl-view" }, queries, lines, keys)),
			make(
				"div",
				{},
				make("div", { class: "pgl-heading", text: "Heads: look at one, click it to switch it off" }),
				grid,
				make("div", { class: "pgl-row" }, reset),
				caption,
				bars,
				promise,
				sql.node,
			),
		),
	);

	let weights = new Float32Array();
	let view = model.get("view");
	let peek = null; // the head under the mouse
	let cells = [];

	const T = () => view.tokens.length;
	const most = () => Math.max(...view.heads);
	const query = () => {
		const at = model.get("query") < 0 ? T() + model.get("query") : model.get("query");
		return Math.min(T() - 1, Math.max(0, at));
	};
	const row = (k, head, at) => {
		const start = ((k * most() + head) * T() + at) * T();
		return weights.subarray(start, start + T());
	};
	const chosen = () => {
		const k = Math.max(0, view.layers.indexOf(model.get("layer")));
		return peek ?? { k, head: Math.min(model.get("head"), view.heads[k] - 1) };
	};
	const isOff = (layer, head) => model.get("off").some(([l, h]) => l === layer && h === head);

	function toggle(layer, head) {
		const off = model.get("off");
		box.ask({
			off: isOff(layer, head) ? off.filter(([l, h]) => l !== layer || h !== head) : [...off, [layer, head]],
		});
	}

	function choose(k, head) {
		model.set("layer", view.layers[k]);
		model.set("head", head);
		model.save_changes();
		peek = null;
		look();
	}

	// The weights of one head as a small map: a row for each query token.
	function thumbnail(canvas, k, head) {
		const n = T();
		canvas.width = canvas.height = n;
		const paint = canvas.getContext("2d");
		paint.fillStyle = getComputedStyle(box.root).getPropertyValue("--pgl-blue");
		paint.clearRect(0, 0, n, n);
		for (let i = 0; i < n; i++)
			row(k, head, i).forEach((weight, j) => {
				paint.globalAlpha = Math.min(1, weight);
				if (weight > 0.01) paint.fillRect(j, i, 1, 1);
			});
	}

	// Lines and weights of the chosen head and token; marks both.
	function look() {
		const { k, head } = chosen();
		const at = query();
		const share = row(k, head, at);
		heading.textContent = `Layer ${view.layers[k]}, head ${head}: ${shown(view.tokens[at].text)} attends to`;
		[...queries.children].forEach((item, i) => {
			item.setAttribute("aria-selected", String(i === at));
			item.setAttribute("tabindex", i === at ? "0" : "-1");
		});
		lines.setAttribute("height", STEP * T());
		lines.replaceChildren(
			...[...share].slice(0, T()).flatMap((weight, j) => {
				if (weight < 0.003) return [];
				const [y, ty] = [STEP * (at + 0.5), STEP * (j + 0.5)];
				return [
					make("svg:path", {
						d: `M${FROM} ${y} C${(FROM + TO) / 2} ${y} ${(FROM + TO) / 2} ${ty} ${TO} ${ty}`,
						"stroke-width": 0.6 + 11 * weight,
						opacity: 0.3 + 0.65 * weight,
						"stroke-linecap": "round",
					}),
				];
			}),
		);
		[...keys.children].forEach((item, j) => {
			const text = share[j] > 0 ? percent(Math.round(1000 * share[j]) / 1000) : "";
			item.classList.toggle("pgl-later", !text);
			item.style.setProperty("--pgl-weight", share[j]);
			item.lastChild.textContent = text;
		});
		cells.forEach((cell) => cell.node.classList.toggle("pgl-chosen", cell.k === k && cell.head === head));
	}

	function tokens() {
		const at = query();
		queries.replaceChildren(
			...view.tokens.map((token, i) =>
				make("div", {
					role: "option",
					class: "pgl-token",
					title: `token ${token.id}, position ${i}`,
					text: shown(token.text),
					onclick: () => select(i),
					onfocus: () => select(i),
				}),
			),
		);
		roving([...queries.children], along(T()), at);
		keys.replaceChildren(
			...view.tokens.map((token) =>
				make("div", { role: "listitem", class: "pgl-token" }, make("span", { text: shown(token.text) }), make("span", { class: "pgl-number" })),
			),
		);
	}

	function select(i) {
		if (i === query()) return;
		model.set("query", i);
		model.save_changes();
		look();
		box.tell(heading.textContent);
	}

	function heads() {
		const focused = cells.findIndex((cell) => cell.node === document.activeElement);
		cells = [];
		grid.style.gridTemplateColumns = `4.2em repeat(${most()}, minmax(26px, 64px))`;
		grid.replaceChildren(
			make("div", {
				role: "row",
				class: "pgl-gridrow",
			}, make("span", { role: "columnheader", text: "head" }), ...Array.from({ length: most() }, (_, h) => make("span", { role: "columnheader", class: "pgl-muted", text: h }))),
			...view.layers.map((layer, k) =>
				make(
					"div",
					{ role: "row", class: "pgl-gridrow" },
					make("span", { role: "rowheader", class: "pgl-muted", text: `layer ${layer}` }),
					...Array.from({ length: view.heads[k] }, (_, head) => {
						const off = isOff(layer, head);
						const canvas = make("canvas", { "aria-hidden": "true" });
						const node = make(
							"button",
							{
								type: "button",
								role: "gridcell",
								class: `pgl-head${off ? " pgl-off" : ""}`,
								"data-layer": layer,
								"data-head": head,
								"aria-pressed": String(off),
								"aria-label": `Layer ${layer}, head ${head}, ${off ? "off" : "on"}`,
								title: `Layer ${layer}, head ${head}: ${off ? "switched off; click for on" : "click switches it off"}`,
								onclick: () => toggle(layer, head),
								onfocus: () => choose(k, head),
								onpointerenter: () => {
									peek = { k, head };
									look();
								},
								onpointerleave: () => {
									peek = null;
									look();
								},
							},
							canvas,
						);
						thumbnail(canvas, k, head);
						cells.push({ k, head, node });
						return node;
					}),
				),
			),
		);
		const { k, head } = chosen();
		const start = Math.max(0, focused >= 0 ? focused : cells.findIndex((cell) => cell.k === k && cell.head === head));
		roving(
			cells.map((cell) => cell.node),
			(i, key) => {
				const here = cells[i];
				const find = (k, head) => cells.findIndex((cell) => cell.k === k && cell.head === Math.min(head, (view.heads[k] ?? 0) - 1));
				if (key === "ArrowRight") return here.head + 1 < view.heads[here.k] ? i + 1 : i;
				if (key === "ArrowLeft") return here.head > 0 ? i - 1 : i;
				if (key === "ArrowDown") return here.k + 1 < view.layers.length ? find(here.k + 1, here.head) : i;
				if (key === "ArrowUp") return here.k > 0 ? find(here.k - 1, here.head) : i;
				if (key === "Home") return find(here.k, 0);
				if (key === "End") return find(here.k, view.heads[here.k] - 1);
				return null;
			},
			start,
		);
		if (focused >= 0) cells[start].node.focus();
	}

	function next() {
		const off = model.get("off").length;
		const most = Math.max(...view.bars.map((b) => Math.max(b.before, b.after)), 1e-9);
		caption.textContent = off
			? `Next token: outline with all heads, filled without ${off === 1 ? "this one" : `these ${off}`}`
			: "Next token";
		bars.replaceChildren(
			...view.bars.map((bar) => {
				const text = off ? `${percent(bar.before)} → ${percent(bar.after)}` : percent(bar.before);
				return make(
					"div",
					{ role: "listitem", class: "pgl-bar pgl-still", "data-token": bar.token, "aria-label": `${shown(bar.token)} ${text}` },
					make("code", { text: shown(bar.token) }),
					make(
						"span",
						{ class: "pgl-track" },
						make("span", { class: "pgl-ghost", style: `width:${(100 * bar.before) / most}%` }),
						make("span", { class: `pgl-fill${off ? " pgl-changed" : ""}`, style: `width:${(100 * bar.after) / most}%` }),
					),
					make("span", { class: "pgl-number", text }),
				);
			}),
		);
		reset.disabled = !off;
		promise.textContent = off
			? "Computed in a transaction that was rolled back: the model in the database is as it was."
			: "A head is switched off in a transaction that is rolled back.";
		const text = quoted(model.get("text"));
		const name = quoted(model.get("model"));
		const look = `SELECT * FROM llm_next_tokens(${text}, ${view.bars.length}, ${name});`;
		const trace = `SELECT llm_trace(${name}, llm_encode(${text}, ${name}));\nSELECT * FROM llm_attention_map\nWHERE run = (SELECT max(run) FROM llm_run);`;
		sql.set(["BEGIN;", ...view.sql, trace, look, "ROLLBACK;"].join("\n"));
		const first = view.bars[0];
		if (off && first) box.tell(`${shown(first.token)}: ${percent(first.before)} before, ${percent(first.after)} after`);
	}

	function draw(seen) {
		view = seen;
		const data = model.get("weights");
		weights = new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
		if (document.activeElement !== input) input.value = model.get("text");
		unknown.replaceChildren(...view.unknown.map((text) => make("li", { text })));
		const focused = queries.contains(document.activeElement);
		tokens();
		heads();
		next();
		look();
		if (focused) queries.children[query()].focus();
	}

	// A canvas does not follow the theme by itself; before the first frame it has no colours at all.
	const repaint = () => cells.forEach((cell) => thumbnail(cell.node.firstChild, cell.k, cell.head));
	const theme = new MutationObserver(() => requestAnimationFrame(repaint));
	theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
	requestAnimationFrame(repaint);
	setTimeout(repaint, 300);
	const again = () => look();
	for (const name of ["layer", "head", "query"]) model.on(`change:${name}`, again);
	box.start();
	return () => {
		typed.stop();
		theme.disconnect();
		box.stop();
		for (const name of ["layer", "head", "query"]) model.off(`change:${name}`, again);
	};
}

export default { render };
