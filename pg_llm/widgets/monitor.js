// The training monitor: see monitor.py. Python draws the plot; this has the controls around it.

function render({ model, el }) {
	const box = frame(model, el, `Training monitor: ${model.get("model")}`, "monitor", draw);
	// A button that cannot be used now keeps the focus: aria-disabled in place of disabled.
	const button = (text, press, first) => {
		const node = make("button", {
			type: "button",
			class: `pgl-button${first ? " pgl-first" : ""}`,
			text,
			onclick: () => node.getAttribute("aria-disabled") === "false" && press(),
		});
		return node;
	};
	const able = (node, can) => node.setAttribute("aria-disabled", String(!can));
	const start = button("Start", () => box.send({ kind: "start" }), true);
	const stop = button("Stop", () => box.send({ kind: "stop" }));
	const back = button("Roll back", () => box.send({ kind: "back", checkpoint: Number(places.value) }));
	const places = make("select", { class: "pgl-select", "aria-label": "Checkpoint to roll back to" });
	const rate = model.get("view").rate;
	const logarithm = (value) => Math.log10(value);
	const rounded = (value) => Number((10 ** value).toPrecision(2));
	const turned = later((v) => box.ask({ learning_rate: rounded(v) }), 500);
	const slow = slider({
		label: "learning rate (peak)",
		min: logarithm(rate) - 2,
		max: logarithm(rate) + 1,
		step: 0.05,
		value: logarithm(model.get("learning_rate")),
		format: (v) => (Math.abs(v - logarithm(model.get("learning_rate"))) < 1e-4 ? String(model.get("learning_rate")) : String(rounded(v))),
		change: turned,
	});
	const facts = make("div", { class: "pgl-progress" });
	const bar = make("progress", { class: "pgl-done", "aria-label": "Steps done" });
	const plot = make("div", { class: "pgl-plot", "aria-hidden": "true" });
	const list = make("ol", { class: "pgl-samples", tabindex: "0", "aria-label": "Samples" });
	const notes = make("ul", { class: "pgl-notes" });
	const sql = statement();
	box.body.append(
		make("div", { class: "pgl-row" }, start, stop, make("span", { class: "pgl-pair" }, back, places)),
		make("div", { class: "pgl-sliders" }, slow.node),
		bar,
		facts,
		notes,
		plot,
		make("div", { class: "pgl-heading", text: "Samples" }),
		list,
		sql.node,
	);
	let said = 0; // when progress was last spoken
	let state = "";

	const numbers = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });

	function speak(view) {
		const now = Date.now();
		if (view.state === state && (view.state !== "running" || now - said < 8000)) return;
		state = view.state;
		said = now;
		box.tell(`${WORDS[view.state]}: step ${view.step} of ${view.end}${view.loss === null ? "" : `, loss ${view.loss.toFixed(2)}`}`);
	}

	function draw(view) {
		const busy = view.state === "running" || view.state === "stopping";
		start.textContent = { ready: "Start", done: `Train ${numbers(view.steps)} more` }[view.state] ?? (busy ? "Running …" : "Resume");
		able(start, !busy);
		able(stop, view.state === "running");
		able(back, view.checkpoints.length > 0 && view.state !== "stopping");
		const chosen = places.value;
		const options = view.checkpoints.map((c) =>
			make("option", { value: c.id, text: c.own ? `to step ${c.step}, before this training` : `to step ${c.step}, checkpoint ${c.id}${c.note ? `: ${c.note}` : ""}` }),
		);
		if (options.map((o) => o.value + o.text).join() !== [...places.children].map((o) => o.value + o.text).join()) {
			places.replaceChildren(...options);
			const own = view.checkpoints.find((c) => c.own);
			places.value = view.checkpoints.some((c) => String(c.id) === chosen) ? chosen : String(own?.id ?? view.checkpoints.at(-1)?.id ?? "");
		}
		places.hidden = options.length === 0;
		bar.max = Math.max(1, view.end);
		bar.value = view.step;
		facts.replaceChildren(
			make("b", { text: WORDS[view.state] }),
			` · step ${numbers(view.step)} of ${numbers(view.end)}`,
			view.loss === null ? "" : ` · loss ${view.loss.toFixed(3)}`,
			view.speed === null || !busy ? "" : ` · ${numbers(view.speed)} tokens/s`,
		);
		notes.replaceChildren(...view.notes.map((text) => make("li", { text })));
		plot.innerHTML = view.svg;
		const end = list.scrollTop + list.clientHeight >= list.scrollHeight - 4;
		list.replaceChildren(
			...view.samples.map((sample) =>
				make(
					"li",
					{ class: sample.undone ? "pgl-undone" : null },
					make("span", { class: "pgl-number", text: `step ${sample.step}` }),
					make("code", { text: sample.texts.map((text) => text.replaceAll("\n", "⏎") || "(no text)").join(" · ") }),
					make("span", {
						class: "pgl-number",
						text: [sample.validation === null ? "" : `validation ${sample.validation.toFixed(3)}`, sample.undone ? "rolled back" : ""]
							.filter(Boolean)
							.join(", "),
					}),
				),
			),
		);
		if (end) list.scrollTop = list.scrollHeight;
		if (document.activeElement !== slow.input) slow.set(logarithm(model.get("learning_rate")));
		sql.set(view.sql);
		speak(view);
	}

	box.start();
	return () => {
		turned.stop();
		box.stop();
	};
}

const WORDS = { ready: "Ready", running: "Training", stopping: "Stopping", stopped: "Stopped", done: "Done", failed: "Failed" };

export default { render };
