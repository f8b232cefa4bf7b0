// The prompt box: see prompt.py.

const ALL = 51; // the top-k slider's last place: every token

function render({ model, el }) {
	const box = frame(model, el, `Prompt box: which token comes next? (${model.get("model")})`, "prompt", draw);
	const mirror = make("div", { class: "pgl-mirror", "aria-hidden": "true" });
	const notes = make("ul", { class: "pgl-notes", id: `pgl-${Math.random().toString(36).slice(2)}` });
	const input = make("textarea", {
		class: "pgl-input",
		rows: 1,
		spellcheck: "false",
		"aria-label": "Prompt",
		"aria-describedby": notes.id,
	});
	const typed = later(() => box.ask({ prompt: input.value }), 250);
	input.addEventListener("input", () => {
		mirror.textContent = `${input.value}\u200b`;
		typed();
	});
	input.addEventListener("keydown", (event) => {
		if (event.key === "Enter" && !event.shiftKey) {
			event.preventDefault();
			typed.stop();
			box.ask({ prompt: input.value });
		}
	});
	const back = make("button", { type: "button", class: "pgl-button", text: "⌫ last token", onclick: () => remove() });
	const drawn = make("button", {
		type: "button",
		class: "pgl-button pgl-first",
		text: "Draw a token",
		title: "Draws the next token from the distribution that the bars show",
		onclick: () => box.send({ kind: "draw" }),
	});
	const temperature = slider({
		label: "temperature",
		min: 0,
		max: 2,
		step: 0.05,
		value: model.get("temperature"),
		format: (v) => (v === 0 ? "0 (greedy)" : v.toFixed(2)),
		change: (v) => box.ask({ temperature: v }),
	});
	const topk = slider({
		label: "top-k",
		min: 1,
		max: ALL,
		step: 1,
		value: model.get("top_k") || ALL,
		format: (v) => (v >= ALL ? "off" : String(v)),
		change: (v) => box.ask({ top_k: v >= ALL ? 0 : v }),
	});
	const topp = slider({
		label: "top-p",
		min: 0.05,
		max: 1,
		step: 0.05,
		value: model.get("top_p"),
		format: (v) => (v >= 1 ? "off" : v.toFixed(2)),
		change: (v) => box.ask({ top_p: v }),
	});
	const chips = make("div", { class: "pgl-chips", role: "group", "aria-label": "Prompts to try" });
	const bars = make("div", { class: "pgl-bars", role: "group", "aria-label": "Next tokens; Enter appends one" });
	const rest = make("div", { class: "pgl-muted" });
	const sql = statement();
	box.body.append(
		chips,
		make("div", { class: "pgl-field" }, mirror, input),
		notes,
		make("div", { class: "pgl-row" }, drawn, back),
		make("div", { class: "pgl-sliders" }, temperature.node, topk.node, topp.node),
		bars,
		rest,
		sql.node,
	);
	let kept = []; // the prompts before each appended token

	function append(token) {
		kept.push(model.get("prompt"));
		box.ask({ prompt: model.get("prompt") + token });
	}

	function remove() {
		const pieces = model.get("view").pieces;
		const last = pieces.at(-1)?.text ?? "";
		const before = kept.pop();
		const now = model.get("prompt");
		const next = before !== undefined && now.startsWith(before) ? before : now.slice(0, now.length - last.length);
		if (next) box.ask({ prompt: next });
	}

	function sliders() {
		temperature.set(model.get("temperature"));
		topk.set(model.get("top_k") || ALL);
		topp.set(model.get("top_p"));
	}

	function draw(view) {
		const prompt = model.get("prompt");
		const typing = document.activeElement === input && input.value !== prompt;
		if (!typing) input.value = prompt;
		if (!typing || input.value === prompt)
			mirror.replaceChildren(
				...view.pieces.flatMap((p) => {
					const word = p.text.trimStart();
					const class_ = p.unknown && word ? "pgl-unknown" : null;
					return [p.text.slice(0, p.text.length - word.length), make("span", { class: class_, text: word })];
				}),
				"\u200b",
			);
		const unknown = new Map(view.pieces.filter((p) => p.unknown).map((p) => [p.text, p.unknown]));
		notes.replaceChildren(...[...unknown.values()].map((text) => make("li", { text })));
		chips.replaceChildren(
			...view.chips.map((chip) => {
				const end = chip.text.split(" ").slice(-5).join(" ");
				return make("button", {
					type: "button",
					class: "pgl-chip",
					title: chip.kind ? `${chip.kind}: ${chip.text}` : chip.text,
					"aria-label": `${chip.kind ? `${chip.kind}: ` : ""}${chip.text}`,
					"aria-pressed": String(chip.text === prompt),
					onclick: () => {
						kept = [];
						box.ask({ prompt: chip.text });
					},
				}, chip.kind ? make("b", { text: chip.kind }) : null, ` ${end === chip.text ? "" : "… "}${end}`);
			}),
		);
		sliders();
		const focused = [...bars.children].indexOf(document.activeElement);
		const most = Math.max(...view.bars.map((b) => Math.max(b.before, b.after)), 1e-9);
		bars.replaceChildren(
			...view.bars.map((bar) => {
				const out = bar.after === 0;
				const text = out ? `left out (was ${percent(bar.before)})` : percent(bar.after);
				return make(
					"button",
					{
						type: "button",
						class: `pgl-bar${out ? " pgl-out" : ""}`,
						"data-token": bar.token,
						"aria-label": `${shown(bar.token)} ${text}`,
						title: `Append ${shown(bar.token)} (token ${bar.id}); the model gives it ${percent(bar.before)}`,
						onclick: () => append(bar.token),
					},
					make("code", { text: shown(bar.token) }),
					make(
						"span",
						{ class: "pgl-track" },
						make("span", { class: "pgl-ghost", style: `width:${(100 * bar.before) / most}%` }),
						make("span", { class: "pgl-fill", style: `width:${(100 * bar.after) / most}%` }),
					),
					make("span", { class: "pgl-number", text }),
				);
			}),
		);
		roving([...bars.children], along(bars.children.length), Math.max(0, focused));
		if (focused >= 0) bars.children[Math.min(focused, bars.children.length - 1)]?.focus();
		const others = view.all - view.bars.length;
		const cut = view.kept < view.all ? `${view.kept.toLocaleString("en")} of ${view.all.toLocaleString("en")} tokens can be drawn. ` : "";
		rest.textContent = `${cut}The other ${others.toLocaleString("en")} tokens: ${percent(view.rest.after)}. Outline: the model; filled: what is drawn from.`;
		sql.set(
			`SELECT * FROM llm_next_tokens(${quoted(prompt)}, ${view.bars.length}, ${quoted(model.get("model"))});\n` +
				`-- one token, drawn as the bars show\n` +
				`SELECT llm_generate(${quoted(prompt)}, 1, temperature => ${model.get("temperature")}, ` +
				`topk => ${model.get("top_k") || "NULL"}, topp => ${model.get("top_p") < 1 ? model.get("top_p") : "NULL"}, ` +
				`model => ${quoted(model.get("model"))});`,
		);
		const first = view.bars.find((b) => b.after > 0);
		if (first) box.tell(`Most probable: ${first.token.trim() || shown(first.token)}, ${percent(first.after)}`);
	}

	for (const name of ["temperature", "top_k", "top_p"]) model.on(`change:${name}`, sliders);
	box.start();
	mirror.append("\u200b");
	return () => {
		typed.stop();
		box.stop();
		for (const name of ["temperature", "top_k", "top_p"]) model.off(`change:${name}`, sliders);
	};
}

export default { render };
