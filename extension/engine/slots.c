/*
 * Memory of values: buffers of values that are no longer needed are reused for later ones.
 */
#include "engine/plan.h"

/* Returns a free buffer to the allocator. */
static void
release_free(LlmExec *exec, Buffer **at)
{
	Buffer *buffer = *at;

	*at = buffer->next;
	exec->memory->release(exec->memory->context, buffer->data, buffer->bytes);
	exec->memory->release(exec->memory->context, buffer, sizeof(Buffer));
}

static Buffer *
new_buffer(LlmExec *exec, size_t bytes)
{
	const LlmAllocator *memory = exec->memory;
	Buffer *buffer = memory->alloc(memory->context, sizeof(Buffer));

	if (buffer == NULL)
		return NULL;
	*buffer = (Buffer){.refs = 1, .bytes = bytes};
	buffer->data = memory->alloc(memory->context, bytes);
	if (buffer->data)
		return buffer;
	memory->release(memory->context, buffer, sizeof(Buffer));
	return NULL;
}

Buffer *
llm_buffer_take(LlmExec *exec, size_t floats, LlmError *err)
{
	size_t bytes = floats * sizeof(float);
	Buffer *buffer, **fit = NULL, **small = NULL;

	/* the smallest free one that is large enough, unless it would waste more than it holds */
	for (Buffer **b = &exec->free_buffers; *b; b = &(*b)->next)
	{
		if ((*b)->bytes >= bytes && (*b)->bytes <= 2 * bytes + 4096 && (!fit || (*b)->bytes < (*fit)->bytes))
			fit = b;
		if ((*b)->bytes < bytes && (!small || (*b)->bytes > (*small)->bytes))
			small = b;
	}
	if (fit)
	{
		buffer = *fit;
		*fit = buffer->next;
		buffer->refs = 1;
		return buffer;
	}
	/* replaces one that is too small: sequences that grow from run to run would otherwise leave many */
	if (small)
		release_free(exec, small);
	buffer = new_buffer(exec, bytes);
	while (buffer == NULL && exec->free_buffers)
	{
		release_free(exec, &exec->free_buffers);
		buffer = new_buffer(exec, bytes);
	}
	if (buffer)
		return buffer;
	llm_fail(err, LLM_NO_MEMORY, "no memory for a value of %zu elements", floats);
	llm_hint(
		err, "Use a shorter sequence or a smaller batch, or have the superuser raise pg_llm.memory_limit.");
	return NULL;
}

Buffer *
llm_scratch_take(LlmExec *exec, size_t floats, LlmError *err)
{
	Buffer *buffer = llm_buffer_take(exec, floats, err);

	if (buffer)
	{
		buffer->next = exec->scratch;
		exec->scratch = buffer;
	}
	return buffer;
}

Buffer *
llm_buffer_place(LlmExec *exec, const LlmValue *value, LlmError *err)
{
	float *data = exec->place(exec->place_context, value);
	Buffer *buffer = data ? exec->memory->alloc(exec->memory->context, sizeof(Buffer)) : NULL;

	if (buffer)
		*buffer = (Buffer){.refs = 1, .lent = true, .data = data};
	else
		llm_fail(err, LLM_NO_MEMORY, "no memory for a value of %zu elements", value->numel);
	return buffer;
}

void
llm_buffers_release(LlmExec *exec)
{
	while (exec->free_buffers)
		release_free(exec, &exec->free_buffers);
}

void
llm_buffer_drop(LlmExec *exec, Buffer *buffer)
{
	if (buffer == NULL || --buffer->refs > 0)
		return;
	if (buffer->lent)
		exec->memory->release(exec->memory->context, buffer, sizeof(Buffer));
	else
	{
		buffer->next = exec->free_buffers;
		exec->free_buffers = buffer;
	}
}

void
llm_exec_drop_scratch(LlmExec *exec)
{
	while (exec->scratch)
	{
		Buffer *buffer = exec->scratch;

		exec->scratch = buffer->next;
		llm_buffer_drop(exec, buffer);
	}
}
