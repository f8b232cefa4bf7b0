/* The state of one generation: prompt, model, KV cache and sampling. */
#ifndef LLM_SRC_GENERATE_GENERATE_H
#define LLM_SRC_GENERATE_GENERATE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"

#include "engine/sample.h"
#include "kernels/random.h"
#include "src/model/inputs.h"
#include "src/tokenizer/tokenizer.h"

#define DEFAULT_MAX_TOKENS 64
/* The eos argument's default; it stands for the model's own end token. */
#define GPT2_EOS 50256

typedef struct Generation
{
	MemoryContext context; /* everything below is allocated in it */
	LoadedModel *m;
	LlmBpe *bpe;
	LlmExec *exec;
	int32 *ids;              /* prompt, then what was generated */
	int prompt, count, most; /* numbers of tokens: in the prompt, so far, maximum */
	int eos;                 /* -1 none */
	LlmSampling how;
	LlmStream stream;
	StringInfoData bytes; /* the text so far, prompt included */
	bool complete;
} Generation;

/*
 * The text of a token; false if it has none. A model may have more logits than its tokenizer has tokens,
 * because vocabularies are padded to round numbers: such a token has no text, and appears as U+FFFD in
 * generated text.
 */
extern bool TextOfToken(const LlmBpe *bpe, int32 id, Datum *text);
extern void AppendToken(const LlmBpe *bpe, int32 id, StringInfo bytes);
/* Loads model and tokenizer, encodes the prompt and opens the executor; if `most` is NULL, the limit is the
 * default or what fits. */
extern Generation *GenerationOpen(const char *model, const char *prompt, const int *most, int eos);
/* The same from SQL arguments: prompt, max_tokens, temperature, topk, topp, model, eos, seed. */
extern Generation *GenerationFromArguments(FunctionCallInfo fcinfo);
/* Resolves an eos argument to the model's end token. */
extern int EndToken(const char *model, int V, bool null, int eos);
/* The logits (V) of the last position of one sequence, in the value of the node "logits" for a batch. */
extern const float *LastLogits(
	const Generation *g, const LlmValue *value, int sequences, int sequence, int *V);
/* The logits (V) after the tokens so far. */
extern const float *GenerationLogits(Generation *g, int *V);
/* Samples and appends the next token; false if the sequence was complete already. */
extern bool GenerationStep(Generation *g);

#endif
