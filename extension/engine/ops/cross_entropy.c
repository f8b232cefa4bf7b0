/*
 * The mean over rows of -log softmax(logits)[target]; a negative target leaves its row out.
 *
 * The loss of a node: targets are ids, or distributions (soft_cross_entropy.c). Logits are often the largest
 * value of a run: one element for each position and each token of the vocabulary. If only the loss reads
 * them, they are computed in chunks of rows: the losses of a chunk and, in training, its gradients, which are
 * propagated at once to the logits' inputs, so that nothing is computed twice. A chunk is a whole number of
 * the row blocks over which a weight's gradient is summed, so that no bit depends on it.
 */
#include "engine/ops/direct.h"
#include "engine/ops/op.h"
#include "engine/gradients.h"
#include "engine/partition.h"
#include "engine/pool.h"
#include "engine/rows.h"

/*
 * Rows of a chunk: whole blocks. Each chunk reads the weight twice and its gradient once, which two blocks
 * make worthwhile.
 */
#define ROWS (2 * LLM_BLOCK)

LlmCode
llm_infer_cross_entropy(const LlmGraph *graph, LlmNode *node, LlmError *err)
{
	const LlmNode *logits = llm_input_of(graph, node, 0), *targets = llm_input_of(graph, node, 1);
	bool fits = logits->ndim > 0 && logits->ndim == targets->ndim + targets->integers;

	for (int i = 0; fits && i < targets->ndim; i++)
		fits = llm_dim_same(graph, &logits->shape[i], &targets->shape[i]);
	if (!fits)
	{
		llm_infer_refuse(node, logits, targets,
			"targets must be whole numbers of the logits' shape without V, or probabilities of their shape",
			err);
		return llm_hint(err, "Whole numbers are an input node of dtype int.");
	}
	node->ndim = 0;
	return LLM_OK;
}

/* True if the targets are distributions over the vocabulary, and not ids. */
static bool
is_soft(const LlmValue *logits, const LlmValue *targets)
{
	return logits->ndim == targets->ndim;
}

/* ---- which logits are computed in chunks ---- */

/*
 * The logits must be x @ a packed weight, read only by their loss. In training the loss must be the target:
 * its gradient is then 1, and since every other computed node leads to the logits, the logits' contributions
 * are the first in every gradient, as they are when they are added during the forward pass.
 */
static bool
in_chunks(const LlmExec *exec, int loss)
{
	const LlmGraph *graph = &exec->model->graph;
	int logits = graph->nodes[loss].inputs[0], weight;
	const LlmNode *node = &graph->nodes[logits];
	const LlmWeight *w;

	if (!graph->nodes[graph->nodes[loss].inputs[1]].integers)
		return false;
	if (node->op != LLM_OP_MATMUL || exec->slots[logits].readers != 1 || exec->tracing || exec->timing)
		return false;
	weight = node->inputs[1];
	w = &exec->model->weights[weight];
	if (w->panels_bytes == 0 || w->transposed != (llm_attr_number(node, "transpose_b", 0) != 0))
		return false;
	if (!exec->keep)
		return true;
	return loss == exec->target && exec->grads && exec->grads[weight] &&
		   llm_is_trainable(&graph->nodes[weight]) && !exec->grads[loss] && !exec->grads[logits];
}

void
llm_plan_losses(LlmExec *exec)
{
	const LlmGraph *graph = &exec->model->graph;

	for (int i = 0; i < graph->count; i++)
		exec->slots[i].in_chunks = false;
	for (int i = 0; i < graph->count; i++)
		if (graph->nodes[i].op == LLM_OP_CROSS_ENTROPY && exec->slots[i].rows != ROWS_NONE)
			exec->slots[graph->nodes[i].inputs[0]].in_chunks = in_chunks(exec, i);
}

/* ---- one chunk ---- */

typedef struct Loss
{
	LlmExec *exec;
	const LlmWeight *w;
	int V, C;
	const float *x;         /* (rows,C) */
	const int32_t *targets; /* (rows) */
	float *losses;          /* (rows) */
	float *logits;          /* (chunk,V); in training its gradient overwrites it */
	float *dw;              /* of the weight; NULL: no gradients are needed */
	float *dx;              /* (rows,C); NULL: not needed */
	float scale;            /* of a row's gradient */
	size_t first, rows;     /* of the chunk */
	size_t per_task;
} Loss;

static void
rows_task(void *context, int task, int worker)
{
	const Loss *l = context;
	size_t end = (task + 1) * l->per_task;

	for (size_t i = task * l->per_task; i < end && i < l->rows; i++)
	{
		float *row = l->logits + i * l->V;
		int target = l->targets[l->first + i];

		l->losses[l->first + i] = target < 0 ? 0 : llm_row_cross_entropy(worker, l->V, row, target);
		if (l->dw && target < 0)
			llm_row_zero(worker, l->V, row);
		else if (l->dw)
			llm_row_cross_entropy_backward(worker, l->V, row, target, l->scale, row);
	}
}

static LlmCode
one_chunk(Loss *l, LlmError *err)
{
	const LlmAllocator *memory = l->exec->memory;
	const float *x = l->x + l->first * l->C;
	int rows = (int) l->rows;
	LlmCode code =
		llm_matmul_compact(l->w->format, rows, l->V, l->C, x, l->C, l->w->panels, l->logits, memory, err);

	l->per_task = l->V < LLM_TASK_ROWS ? LLM_TASK_ROWS / l->V : 1;
	if (code == LLM_OK)
		code = llm_parallel((int) ((l->rows + l->per_task - 1) / l->per_task), rows_task, l, err);
	if (code == LLM_OK && l->dw && l->w->plain)
		code = llm_matmul_dw(rows, l->V, l->C, x, l->logits, l->w->transposed, l->dw, memory, err);
	else if (code == LLM_OK && l->dw)
		code = llm_matmul_dw_panels(rows, l->V, l->C, x, l->logits, l->dw, memory, err);
	if (code == LLM_OK && l->dx)
		code = llm_matmul_dx_panels(
			rows, l->V, l->C, l->logits, l->w->panels, l->dx + l->first * l->C, memory, err);
	return code;
}

/* ---- all chunks ---- */

/*
 * Computes all chunks; the gradient with respect to x is kept in the logits' slot until the backward pass
 * reaches it.
 */
static LlmCode
all_chunks(LlmExec *exec, int logits, const LlmValue *targets, float *losses, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[logits];
	const LlmValue *x = &exec->slots[node->inputs[0]].value, *value = &exec->slots[logits].value;
	size_t n = targets->numel, most = n < ROWS ? n : ROWS;
	Loss l = {.exec = exec,
		.w = &exec->model->weights[node->inputs[1]],
		.V = value->dims[value->ndim - 1],
		.C = x->dims[x->ndim - 1],
		.x = x->floats,
		.targets = targets->integers,
		.losses = losses};
	Buffer *buffer = llm_buffer_take(exec, most * l.V, err);
	LlmCode code = buffer ? LLM_OK : err->code;

	if (code == LLM_OK && exec->keep)
	{
		l.dw = exec->grads[node->inputs[1]];
		code = llm_cross_entropy_scale(n, targets->integers, exec->dtarget, &l.scale, err);
		if (code == LLM_OK && exec->slots[node->inputs[0]].wanted)
		{
			exec->slots[logits].dx = llm_buffer_take(exec, x->numel, err);
			code = exec->slots[logits].dx ? LLM_OK : err->code;
		}
	}
	if (code == LLM_OK && exec->slots[logits].dx)
		l.dx = exec->slots[logits].dx->data;
	if (code == LLM_OK)
		l.logits = buffer->data;
	for (; code == LLM_OK && l.first < n; l.first += ROWS)
	{
		l.rows = n - l.first < ROWS ? n - l.first : ROWS;
		code = one_chunk(&l, err);
	}
	llm_buffer_drop(exec, buffer);
	return code;
}

static LlmCode
check_targets(const LlmNode *node, const LlmValue *targets, int V, LlmError *err)
{
	for (size_t i = 0; i < targets->numel; i++)
	{
		if (i % LLM_POLL_ELEMENTS == 0 && llm_poll(err) != LLM_OK)
			return err->code;
		if (targets->integers[i] >= V)
		{
			llm_fail(err, LLM_RANGE, "node \"%s\": target %d at place %zu is outside the vocabulary of %d",
				node->name, targets->integers[i], i + 1, V);
			return llm_hint(err, "Targets run from 0 to %d; a negative one is left out of the loss.", V - 1);
		}
	}
	return LLM_OK;
}

static LlmCode
forward_soft(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	int V = in[0].dims[in[0].ndim - 1];
	size_t rows = V ? in[0].numel / V : 0;
	LlmCode code = llm_run_result(exec, index, err);
	Buffer *losses;

	if (code != LLM_OK)
		return code;
	losses = llm_buffer_take(exec, rows, err);
	if (losses == NULL)
		return err->code;
	code = llm_soft_cross_entropy(
		rows, V, in[0].floats, in[1].floats, losses->data, llm_result_of(exec, index), err);
	llm_buffer_drop(exec, losses);
	return code;
}

LlmCode
llm_forward_cross_entropy(LlmExec *exec, int index, const LlmValue *in, LlmError *err)
{
	const LlmNode *node = &exec->model->graph.nodes[index];
	const Slot *logits = &exec->slots[node->inputs[0]];
	const LlmValue *targets = &exec->slots[node->inputs[1]].value;
	int V = logits->value.dims[logits->value.ndim - 1];
	LlmCode code;
	Buffer *losses;

	if (is_soft(&logits->value, targets))
		return forward_soft(exec, index, in, err);
	code = llm_run_result(exec, index, err);
	if (code == LLM_OK)
		code = check_targets(node, targets, V, err);
	if (code != LLM_OK)
		return code;
	losses = llm_buffer_take(exec, targets->numel, err);
	if (losses == NULL)
		return err->code;
	if (logits->in_chunks)
		code = all_chunks(exec, node->inputs[0], targets, losses->data, err);
	else
		code = llm_cross_entropy_rows(
			targets->numel, V, logits->value.floats, targets->integers, losses->data, err);
	if (code == LLM_OK)
		code = llm_cross_entropy_mean(
			targets->numel, targets->integers, losses->data, exec->slots[index].buffer->data, err);
	llm_buffer_drop(exec, losses);
	return code;
}

/* ---- its gradient ---- */

static LlmCode
cross_entropy_dx(Back *b, float *dx, LlmError *err)
{
	return llm_cross_entropy_backward(b->in[1].numel, b->in[0].dims[b->in[0].ndim - 1], b->in[0].floats,
		b->in[1].integers, b->dy[0], dx, err);
}

/* Of distributions: the gradient with respect to the logits, or to the targets. */
static LlmCode
write_soft(Back *b, float *dx, float *dp, LlmError *err)
{
	int V = b->in[0].dims[b->in[0].ndim - 1];

	return llm_soft_cross_entropy_backward(
		V ? b->in[0].numel / V : 0, V, b->in[0].floats, b->in[1].floats, b->dy[0], dx, dp, err);
}

static LlmCode
soft_dx(Back *b, float *dx, LlmError *err)
{
	return write_soft(b, dx, NULL, err);
}

static LlmCode
soft_dp(Back *b, float *dp, LlmError *err)
{
	return write_soft(b, NULL, dp, err);
}

static LlmCode
backward_soft(Back *b, LlmError *err)
{
	LlmCode code = llm_back_write(b, 0, soft_dx, err);

	return code == LLM_OK ? llm_back_write(b, 1, soft_dp, err) : code;
}

LlmCode
llm_backward_cross_entropy(Back *b, LlmError *err)
{
	if (is_soft(&b->in[0], &b->in[1]))
		return backward_soft(b, err);
	if (b->exec->slots[b->node->inputs[0]].in_chunks) /* computed with the loss */
		return LLM_OK;
	return llm_back_write(b, 0, cross_entropy_dx, err);
}
