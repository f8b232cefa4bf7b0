/* From a seed to the factors of a butterfly. */
#include "butterflies/butterfly.h"
#include "kernels/random.h"

const char *const llm_butterfly_palette_names[LLM_BUTTERFLY_PALETTES] = {
	"monarch", "morpho", "brimstone", "peacock", "swallowtail", "emerald", "violet", "rose"};
const char *const llm_butterfly_pattern_names[LLM_BUTTERFLY_PATTERNS] = {
	"dots", "band", "spots", "eyes", "veins", "tips"};

/* Shares of butterflies with a tail, and with a waved edge. */
#define TAILED 0.3
#define SCALLOPED 0.35

typedef struct Dice
{
	LlmStream stream;
	uint64_t drawn;
} Dice;

static double
between(Dice *dice, double low, double high)
{
	return low + (high - low) * llm_uniform(&dice->stream, dice->drawn++);
}

/* In the range with this probability, otherwise 0. */
static double
sometimes(Dice *dice, double probability, double low, double high)
{
	double value = between(dice, low, high);

	return between(dice, 0, 1) < probability ? value : 0;
}

void
llm_butterfly_factors(uint64_t seed, LlmButterfly *b)
{
	Dice dice = {llm_stream(seed, "butterfly", 0, 0), 0};

	b->palette = (int) between(&dice, 0, LLM_BUTTERFLY_PALETTES);
	b->pattern = (LlmButterflyPattern) between(&dice, 0, LLM_BUTTERFLY_PATTERNS);
	b->size = between(&dice, 0.88, 1.02);
	b->height = between(&dice, -0.6, 0.6);
	b->fore_reach = between(&dice, 12.6, 14.8);
	b->fore_lift = between(&dice, 9, 12);
	b->fore_round = between(&dice, 0, 1);
	b->hind_reach = between(&dice, 10, 12.4);
	b->hind_drop = between(&dice, 10.5, 13);
	b->hind_round = between(&dice, 0, 1);
	b->tail = sometimes(&dice, TAILED, 2.4, 4);
	b->scallop = sometimes(&dice, SCALLOPED, 0.5, 0.9);
	b->margin = between(&dice, 0.14, 0.24);
	b->glow = between(&dice, 0, 0.8);
	b->mark_place = between(&dice, 0.45, 0.6);
	b->mark_size = between(&dice, 1.6, 2.1);
	b->antenna = between(&dice, 3, 5);
}
