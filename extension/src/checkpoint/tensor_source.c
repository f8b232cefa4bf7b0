/*
 * See tensor_source.h.
 */
#include "src/checkpoint/tensor_source.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "formats/npz.h"
#include "formats/tensor_file.h"
#include "src/base/errors.h"
#include "src/base/memory.h"

void
EachTensor(TensorSource *source, void (*use)(TensorSource *source, int i, const Tensor *tensor, void *arg),
	void *arg)
{
	MemoryContext one = AllocSetContextCreate(CurrentMemoryContext, "pg_llm tensor", ALLOCSET_DEFAULT_SIZES);

	if (source->progress)
		ProgressRange(source->progress, 0, source->count);
	for (int i = 0; i < source->count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(one);
		const Tensor *tensor = source->fetch(source->context, i);

		CHECK_FOR_INTERRUPTS();
		if (use)
			use(source, i, tensor, arg);
		MemoryContextSwitchTo(old);
		MemoryContextReset(one);
		if (source->progress)
			ProgressStep(source->progress, i + 1, 0);
	}
	MemoryContextDelete(one);
}

static void
WriteValues(TensorSource *source, int i, const Tensor *tensor, void *arg)
{
	const LlmSink *sink = arg;
	LlmError err;

	LLM_CHECK(
		sink->write(sink->context, TENSOR_DATA(tensor), (size_t) TensorNumel(tensor) * sizeof(float), &err),
		&err);
}

void
ProduceSafetensors(const LlmSink *sink, void *arg)
{
	TensorSource *source = arg;
	LlmError err;

	LLM_CHECK(llm_safetensors_write_header(
				  sink, source->tensors, (size_t) source->count, source->config, ContextAllocator(), &err),
		&err);
	EachTensor(source, WriteValues, (void *) sink);
}

static void
WriteMember(TensorSource *source, int i, const Tensor *tensor, void *arg)
{
	const LlmSafetensorsTensor *t = &source->tensors[i];
	LlmError err;

	LLM_CHECK(llm_npz_write_tensor(arg, t->name, t->ndim, t->dims, TENSOR_DATA(tensor), &err), &err);
}

void
ProduceNpz(const LlmSink *sink, void *arg)
{
	TensorSource *source = arg;
	LlmNpzWriter writer;
	LlmError err;

	llm_npz_writer_init(&writer, sink, ContextAllocator());
	writer.stop = &CancelStop;
	EachTensor(source, WriteMember, &writer);
	LLM_CHECK(
		llm_npz_write_member(&writer, LLM_CONFIG_NAME, source->config, strlen(source->config), &err), &err);
	LLM_CHECK(llm_npz_finish(&writer, &err), &err);
	llm_npz_writer_close(&writer);
}

void
ProduceConfig(const LlmSink *sink, void *arg)
{
	const TensorSource *source = arg;
	LlmError err;

	LLM_CHECK(sink->write(sink->context, source->config, strlen(source->config), &err), &err);
}
