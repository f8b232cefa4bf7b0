/*
 * The lexicon. Every word is written as its token, with a leading space. The lists are disjoint, so that a
 * word's role is unambiguous, and all words are short, so that a vocabulary of 1024 trained on the stories
 * has each as one token.
 */
#ifndef LLM_STORY_WORDS_H
#define LLM_STORY_WORDS_H

#define COUNT(list) ((int) (sizeof(list) / sizeof((list)[0])))

static const char *const SEASONS[] = {
	" spring", " summer", " autumn", " winter", " April", " May", " June", " August"};
static const char *const SCENERY[] = {
	" wind", " air", " rain", " river", " lake", " sea", " brook", " breeze"};
static const char *const MOODS[] = {" cold", " cool", " warm", " mild", " calm", " wild", " soft", " quiet"};

/* Girls, then boys. */
static const char *const NAMES[] = {" Anna", " Mary", " Rose", " Ida", " Nell", " Emma", " Lucy", " Ruth",
	" Clara", " Ella", " Nora", " Jane", " Tom", " Ben", " Jack", " Sam", " Hugh", " Max", " Carl", " Leo",
	" Noah", " Finn", " Paul", " Luke"};
#define GIRLS (COUNT(NAMES) / 2)
static const char *const SURNAMES[] = {" Bell", " Reed", " Hill", " Wood", " Stone", " Lane", " Ford",
	" Marsh", " Park", " Cole", " Finch", " Hart", " Gray", " Moss", " Webb", " Dale", " Field", " Cross",
	" Banks", " Price", " Noble", " Swift", " Burns", " Wells"};

static const char *const PLACES[] = {" garden", " barn", " kitchen", " forest", " tower", " mill", " cave",
	" cellar", " attic", " meadow", " market", " orchard", " stable", " shed", " chapel", " inn", " bakery",
	" castle", " school", " tent"};
static const char *const VERBS[] = {
	" walked", " ran", " went", " hurried", " strolled", " hopped", " crept", " marched"};
static const char *const SOON[] = {" Then", " Soon", " Later"};

static const char *const ADJECTIVES[] = {" red", " blue", " green", " small", " big", " new", " round",
	" golden", " silver", " paper", " wooden", " striped", " tiny", " shiny", " heavy", " old", " orange",
	" iron", " odd"};
/* From this index on, the article is "an". */
#define VOWELS 15
static const char *const THINGS[] = {" kite", " drum", " lamp", " hat", " ball", " key", " cup", " boat",
	" ring", " coat", " fan", " flute", " clock", " basket", " mirror", " whistle", " spoon", " pencil",
	" scarf", " chair", " puppet", " lantern", " flag", " coin"};

static const char *const SONG[] = {" lark", " snow", " willow", " moon", " ember", " dew", " fern", " star",
	" leaf", " swan", " honey", " plum", " ivy", " wave", " cloud", " seed", " nest", " bee", " pine", " oak",
	" fox", " thorn", " mist", " sand", " owl", " frost", " shell", " clover", " hare", " wren", " dawn",
	" berry"};

static const char *const HOURS[] = {" supper", " home", " night", " sunset", " last"};
static const char *const ENDINGS[] = {" All was well.", " Night fell.", " Stars came out.", " The day ended.",
	" Everyone was happy.", " Nobody slept.", " What a day!"};

#endif
