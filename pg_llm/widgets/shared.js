// What the widgets share: elements, bars, sliders, errors. Plain JavaScript; nothing is loaded from elsewhere.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children; "on…" attributes are listeners, text is its text.
function make(tag, attributes = {}, ...children) {
	const node = tag.startsWith("svg:")
		? document.createElementNS(SVG, tag.slice(4))
		: document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
		else if (name === "text") node.textContent = value;
		else if (value === true) node.setAttribute(name, "");
		else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
	}
	node.append(...children.filter((child) => child !== null && child !== undefined));
	return node;
}

function later(work, wait) {
	let timer = 0;
	const delayed = (...values) => {
		clearTimeout(timer);
		timer = setTimeout(() => work(...values), wait);
	};
	delayed.stop = () => clearTimeout(timer);
	return delayed;
}

const MARKS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };

// A token with its space made visible.
function shown(token) {
	return [...token].map((letter) => MARKS[letter] ?? letter).join("");
}

function percent(share) {
	const value = 100 * share;
	const digits = value >= 99.95 || value === 0 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
	const text = value.toFixed(digits);
	if (value && Number(text) === 0) return "< 0.001 %";
	return `${Number(text)} %`;
}

// A slider with its name and value; change is told after a short pause. set(value) shows another value without
// telling anyone, unless the slider has been moved and that is still to be told.
function slider({ label, min, max, step, value, format, change }) {
	const id = `pgl-${Math.random().toString(36).slice(2)}`;
	const output = make("output", { for: id });
	const input = make("input", { type: "range", id, min, max, step, class: "pgl-range" });
	const show = () => {
		const text = format(Number(input.value));
		output.textContent = text;
		input.setAttribute("aria-valuetext", text);
		const share = (Number(input.value) - min) / (max - min || 1);
		input.style.setProperty("--pgl-share", `${100 * share}%`);
	};
	let moved = false;
	const tell = later(() => {
		moved = false;
		change(Number(input.value));
	}, 40);
	input.addEventListener("input", () => {
		moved = true;
		show();
		tell();
	});
	const set = (next) => {
		if (moved) return;
		input.value = next;
		show();
	};
	set(value);
	return { node: make("div", { class: "pgl-slider" }, make("label", { for: id, text: label }), input, output), input, set };
}

// Moves the keyboard's focus among items with arrow keys; only one of them is in the tab order.
// step(index, key) is the next index, or null for keys that it does not know.
function roving(items, step, start = 0) {
	items.forEach((item, k) => item.setAttribute("tabindex", k === start ? "0" : "-1"));
	items.forEach((item, k) =>
		item.addEventListener("keydown", (event) => {
			const next = step(k, event.key);
			if (next === null || next < 0 || next >= items.length) return;
			event.preventDefault();
			items.forEach((other) => other.setAttribute("tabindex", "-1"));
			items[next].setAttribute("tabindex", "0");
			items[next].focus();
		}),
	);
}

// The next index in a row or column of n items.
function along(n) {
	return (k, key) => {
		if (key === "ArrowDown" || key === "ArrowRight") return Math.min(n - 1, k + 1);
		if (key === "ArrowUp" || key === "ArrowLeft") return Math.max(0, k - 1);
		if (key === "Home") return 0;
		if (key === "End") return n - 1;
		return null;
	};
}

// Enter and Space press an element that is no button.
function pressable(node, press) {
	node.addEventListener("click", press);
	node.addEventListener("keydown", (event) => {
		if (event.key !== "Enter" && event.key !== " ") return;
		event.preventDefault();
		press(event);
	});
}

// The frame of a widget: its title, the error of the last event, and what is spoken after a change.
// ask(change) changes traits of the model and waits for the answer; draw(view) shows it.
function frame(model, el, title, kind, draw) {
	const alarm = make("div", { class: "pgl-error", role: "alert", hidden: true });
	const spoken = make("div", { class: "pgl-spoken", "aria-live": "polite" });
	const waiting = make("div", { class: "pgl-waiting", hidden: true, text: "Waiting for the cell that is running …" });
	const body = make("div", { class: "pgl-body" });
	const root = make(
		"section",
		{ class: `pgl pgl-${kind}`, "aria-label": title },
		make("div", { class: "pgl-title", text: title }),
		alarm,
		body,
		waiting,
		spoken,
	);
	// JupyterLab's own keys (j, k, dd, Enter …) are not meant for what has the focus here.
	root.addEventListener("keydown", (event) => {
		if (!(event.shiftKey && event.key === "Enter") && !event.ctrlKey && !event.metaKey) event.stopPropagation();
	});
	root.setAttribute("data-lm-suppress-shortcuts", "true");
	el.append(root);
	const slow = later(() => (waiting.hidden = false), 800);
	const answered = () => {
		slow.stop();
		waiting.hidden = true;
		draw(model.get("view"));
	};
	const failed = () => {
		const text = model.get("error");
		alarm.hidden = !text;
		root.classList.toggle("pgl-stale", Boolean(text)); // what is shown belongs to an earlier question
		alarm.replaceChildren();
		if (!text) return;
		const again = make("button", {
			type: "button",
			class: "pgl-button",
			text: "Try again",
			onclick: () => {
				slow();
				model.send({ kind: "again" });
			},
		});
		alarm.append(make("pre", { text }), again);
	};
	const ask = (change) => {
		for (const [name, value] of Object.entries(change)) model.set(name, value);
		slow();
		model.save_changes();
	};
	model.on("change:view", answered);
	model.on("change:error", failed);
	return {
		root,
		body,
		ask,
		tell: (text) => (spoken.textContent = text),
		send: (message) => {
			slow();
			model.send(message);
		},
		start: () => {
			draw(model.get("view"));
			failed();
		},
		stop: () => {
			slow.stop();
			model.off("change:view", answered);
			model.off("change:error", failed);
		},
	};
}

// The SQL behind what is shown, folded.
function statement() {
	const code = make("pre", { class: "pgl-sql" });
	const node = make("details", { class: "pgl-details" }, make("summary", { text: "The SQL behind this" }), code);
	return { node, set: (text) => (code.textContent = text) };
}

function quoted(text) {
	return `'${text.replaceAll("'", "''")}'`;
}
