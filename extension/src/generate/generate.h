/* The state of one generation: prompt, model, KV cache and sampling. */
#ifndef LLM_SRC_GENERATE_GENERATE_H
#define LLM_SRC_GENERATE_GENERATE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"

#include "engine/sample.h"
#include "kernels/random.h"
#include "src/base/progress.h"
#include "src/model/inputs.h"
#include "src/tokenizer/tokenizer.h"

#define DEFAULT_MAX_TOKENS 64
/* The eos argument's default; it stands for the model's own end token. */
#define GPT2_EOS 50256

/* A text that ends the continuation; it is not part of it. */
typedef struct StopText
{
	const char *bytes;
	Size size;
} StopText;

/* A prompt: a text, in which special tokens count where asked for, or its tokens. */
typedef struct Prompt
{
	char *text;
	ArrayType *ids; /* if text is NULL */
	bool special;
} Prompt;

/* Argument 0, which is text or int[]; special: the number of that argument, which functions of int[] lack. */
extern Prompt PromptArgument(FunctionCallInfo fcinfo, int special);

typedef struct Generation
{
	MemoryContext context; /* everything below is allocated in it */
	LoadedModel *m;
	LlmBpe *bpe;
	LlmExec *exec;           /* NULL in a batch, which has one for all */
	int32 *ids;              /* prompt, then what was generated */
	int prompt, count, most; /* numbers of tokens: in the prompt, so far, maximum */
	int eos;                 /* -1 none */
	LlmSampling how;
	uint64 seed;
	LlmStream stream;
	StopText *stop;
	int stops;
	StringInfoData bytes; /* the text so far, prompt included */
	int prompt_bytes;     /* the prompt's part of it */
	double logprob;       /* of the newest token, under the model: before temperature, penalties and limits */
	double score;         /* the sum of these */
	bool complete;
	Progress *progress; /* NULL in a batch */
} Generation;

/*
 * The text of a token; false if it has none. A model may have more logits than its tokenizer has tokens,
 * because vocabularies are padded to round numbers: such a token has no text, and appears as U+FFFD in
 * generated text.
 */
extern bool TextOfToken(const LlmBpe *bpe, int32 id, Datum *text);
extern void AppendToken(const LlmBpe *bpe, int32 id, StringInfo bytes);
/* Tokens of a sequence as int[], without the end token that stands for an empty prompt. */
extern Datum TokenArray(const Generation *g, const int32 *ids, int count);
/* Loads model and tokenizer and encodes the prompt; if `most` is NULL, the limit is the default or what fits;
 * eos is an argument of that name, NULL for no end token. */
extern Generation *GenerationOpen(const char *model, const Prompt *prompt, const int *most, const int *eos);
/*
 * The same, with what SQL arguments 1 to 11 say: max_tokens, temperature, topk, topp, model, eos, seed, stop,
 * repetition_penalty, min_p, no_repeat_ngram.
 */
extern Generation *GenerationFromArguments(FunctionCallInfo fcinfo, const Prompt *prompt);
extern void GenerationSeed(Generation *g, uint64 seed);
/* An executor for sequences of at most `most` tokens. */
extern LlmExec *GenerationExec(LoadedModel *m, int most);
/* The logits (V) of the last position of one sequence, in the value of the node "logits" for a batch. */
extern const float *LastLogits(
	const Generation *g, const LlmValue *value, int sequences, int sequence, int *V);
/* The logits (V) after the tokens so far. */
extern const float *GenerationLogits(Generation *g, int *V);
/* Samples the next token from the logits (V) and appends it. */
extern void GenerationAppend(Generation *g, int V, const float *logits);
/* Computes the logits and appends the next token; false if the sequence was complete already. */
extern bool GenerationStep(Generation *g);

/* ---- stop.c ---- */

/* Sets the stop texts to those of argument n, a text[]. */
extern void StopArgument(Generation *g, FunctionCallInfo fcinfo, int n);
/*
 * True if a stop text ends in the newest token, whose bytes begin at `before`: then the text is cut where the
 * first one begins, but not before the end of the prompt.
 */
extern bool StopReached(Generation *g, int before);
/* The length of the text that can be shown: what may be the beginning of a stop text is held back. */
extern int GenerationShown(const Generation *g);

#endif
