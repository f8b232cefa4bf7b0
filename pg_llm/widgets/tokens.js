// The tokenizer view: see tokens.py.

function render({ model, el }) {
	const box = frame(model, el, `Tokenizer view: ${model.get("tokenizer")}`, "tokenizer", draw);
	let view = null;
	const input = make("textarea", { class: "pgl-line-input", rows: 2, spellcheck: "false", "aria-label": "Text" });
	const typed = later(() => box.ask({ text: input.value }), 300);
	input.addEventListener("input", typed);
	const place = slider({
		label: "merges",
		min: 0,
		max: 1,
		step: 1,
		value: 1,
		format: (k) => (view ? `${applied(k).toLocaleString("en")} of ${view.all.toLocaleString("en")}` : ""),
		change: (k) => choose(applied(k)),
	});
	const exact = make("input", { type: "number", class: "pgl-exact", min: 0, "aria-label": "Number of merges" });
	exact.addEventListener("change", () => choose(Math.max(0, Math.min(view.all, Number(exact.value)))));
	const button = (text, name, move) =>
		make("button", { type: "button", class: "pgl-button", text, "aria-label": name, title: name, onclick: () => step(move) });
	const line = make("div", { class: "pgl-merge" });
	const tokens = make("div", { class: "pgl-stream", role: "list", "aria-label": "Tokens" });
	const count = make("div", { class: "pgl-muted" });
	const sql = statement();
	place.node.classList.add("pgl-wide");
	box.body.append(
		input,
		make("div", { class: "pgl-row" }, button("◀", "One merge less", -1), place.node, button("▶", "One merge more", 1), exact),
		line,
		tokens,
		count,
		sql.node,
	);
	// The slider's places are the merges that change something in this text; the last one is all merges.
	function applied(k) {
		return k >= view.stages.length - 1 ? view.all : view.stages[k].n;
	}

	function merges() {
		return model.get("merges") < 0 ? view.all : model.get("merges");
	}

	function stage() {
		let k = 0;
		while (k + 1 < view.stages.length && view.stages[k + 1].n <= merges()) k++;
		return k;
	}

	function choose(n) {
		model.set("merges", n >= view.all ? -1 : n);
		model.save_changes();
		look();
	}

	function step(move) {
		const k = Math.max(0, Math.min(view.stages.length - 1, stage() + move));
		choose(applied(k));
	}

	function look() {
		const k = stage();
		const { merge, pieces, n } = view.stages[k];
		const joined = merge ? merge.join("") : null;
		place.set(k);
		exact.value = merges();
		line.replaceChildren(
			...(merge
				? ["The last merge that changed something here: number ", make("b", { text: n.toLocaleString("en") }), " joined ",
					make("code", { text: shown(merge[0]) }), " and ", make("code", { text: shown(merge[1]) }), " to ", make("code", { text: shown(joined) }), "."]
				: ["No merge yet: every byte is a token."]),
		);
		let colour = 0;
		tokens.replaceChildren(
			...pieces.flatMap((piece) =>
				piece.map((token) =>
					make(
						"span",
						{
							role: "listitem",
							class: `pgl-piece pgl-hue${colour++ % 6}${token.text === joined ? " pgl-new" : ""}`,
							"aria-label": `${shown(token.text)}, id ${token.id}`,
						},
						make("span", { text: shown(token.text) }),
						make("small", { text: token.id }),
					),
				),
			),
		);
		const found = pieces.reduce((sum, piece) => sum + piece.length, 0);
		count.textContent =
			`${found} tokens for ${view.letters} characters (${view.bytes} bytes): ` +
			`${(view.bytes / Math.max(1, found)).toFixed(2)} bytes a token. Merges never cross the ${pieces.length} pieces of the text.`;
		box.tell(`${found} tokens after ${merges()} merges`);
		const name = quoted(model.get("tokenizer"));
		sql.set(
			`SELECT * FROM llm_tokenize(${quoted(model.get("text"))}, ${name});\n` +
				(merge
					? `SELECT rank, left_token, right_token FROM llm_bpe_merges\nWHERE model = ${name} AND rank < ${merges()} ORDER BY rank DESC LIMIT 5;`
					: ""),
		);
	}

	function draw(seen) {
		view = seen;
		if (document.activeElement !== input) input.value = model.get("text");
		place.input.max = view.stages.length - 1;
		exact.max = view.all;
		look();
	}

	model.on("change:merges", look);
	box.start();
	return () => {
		typed.stop();
		box.stop();
		model.off("change:merges", look);
	};
}

export default { render };
