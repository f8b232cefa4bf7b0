/* One text being continued: prompt, model, caches and the choice of tokens. */
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
/* The eos argument's default; stands for the model's own end token. */
#define GPT2_EOS 50256

typedef struct Generation
{
	MemoryContext context; /* everything below lives here */
	LoadedModel *m;
	LlmBpe *bpe;
	LlmExec *exec;
	int32 *ids;              /* prompt, then what was generated */
	int prompt, count, most; /* tokens: of the prompt, so far, at most */
	int eos;                 /* -1 none */
	LlmSampling how;
	LlmStream stream;
	StringInfoData bytes; /* the text so far, prompt included */
	bool complete;
} Generation;

/*
 * A model may have more logits than its tokenizer has tokens (vocabularies are padded to round numbers): such
 * a token has no text, and leaves U+FFFD in the text that it is part of.
 */
extern bool TextOfToken(const LlmBpe *bpe, int32 id, Datum *text);
extern void AppendToken(const LlmBpe *bpe, int32 id, StringInfo bytes);
/* Model, tokenizer and prompt; `most` NULL takes the default or what fits. Opens the executor. */
extern Generation *GenerationOpen(const char *model, const char *prompt, const int *most, int eos);
/* From prompt, max_tokens, temperature, topk, topp, model, eos, seed. */
extern Generation *GenerationFromArguments(FunctionCallInfo fcinfo);
/* The model's end token for an eos argument. */
extern int EndToken(const char *model, int V, bool null, int eos);
/* The logits (V) of one text's last position in the value of the node "logits" for several texts. */
extern const float *LastLogits(const Generation *g, const LlmValue *value, int texts, int text, int *V);
/* Logits (V) after the tokens so far. */
extern const float *GenerationLogits(Generation *g, int *V);
/* Chooses and appends the next token; false when the text was complete already. */
extern bool GenerationStep(Generation *g);

#endif
