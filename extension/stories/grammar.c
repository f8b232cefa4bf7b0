/*
 * The grammar: the possible continuations, in the order of the story. Whenever it offers more than one word,
 * the words differ, so each choice is visible in the word itself and determines what may follow.
 */
#include <string.h>

#include "stories/sampler.h"
#include "stories/words.h"

/* Frequencies of events, as weights: a kind of token that models learn too late is made more frequent. */
enum
{
	MAX_CLAUSES = 2, /* scenery before anything happens: it shifts all positions */
	ASK_WHERE = 2,   /* after a move, compared with seeing who has a thing */
	SEE_WHO = 4,
	WHERE_PERSON = 2, /* each of two persons, compared with their things */
	WHERE_THING = 3,
	ASK_MORE = 18,   /* a question of the other kind, compared with 9 for a move */
	ASK_ANOTHER = 3, /* thing, compared with */
	ASK_AGAIN = 1,   /* the same */
	GIVES = 3,       /* the first gift of a story, once its holder is named */
	KEEPS = 1,
	SHORTEST_SONG = 6,
	LONGEST_SONG = 8
};

/* The maximum length of each part in tokens; events follow while there is room for the resumed song and an
 * end. */
enum
{
	OPENING = 3 + 5 * MAX_CLAUSES + 1 + 2 * 11 + 5 + LONGEST_SONG,
	MOVE = 7,
	WHERE = 12,
	WHO = 8,
	GIFT = 7,
	CLOSE = 6 + LONGEST_SONG + 4,
	MAX_EVENTS = 12
};
_Static_assert(OPENING + MOVE + WHERE + CLOSE <= LLM_STORY_TOKENS, "a story must fit its tokens");

/* All fields are indices into the lists of words.h. */
typedef struct Person
{
	int name, surname, place;
} Person;

typedef struct Thing
{
	int adjective, noun;
	int holder;
} Thing;

typedef struct Plot
{
	StorySampler *t;
	Person person[2];
	Thing thing[2];
	int asked[2]; /* the thing in the last question about who, about where; -1: none yet */
	bool gift_made;
	int song[LONGEST_SONG];
	int song_words;
} Plot;

/* ---- continuations ---- */

static void
offer(StorySampler *t, const char *word, int weight, int id)
{
	story_offer(t, word, (int) strlen(word), weight, id);
}

/* Words without an alternative. */
static void
say(StorySampler *t, const char *phrase)
{
	for (size_t left = strlen(phrase); left > 0;)
	{
		int size = story_piece(phrase, left);

		story_offer(t, phrase, size, 1, 0);
		story_take(t, LLM_STORY_SYNTAX);
		phrase += size;
		left -= size;
	}
}

/* A word determined by something said earlier. */
static void
recall(StorySampler *t, const char *word, LlmStoryKind kind)
{
	offer(t, word, 1, 0);
	story_take(t, kind);
}

/* The index of a word of the list from first up to end, all equally likely, two of them excluded. */
static int
one_of(StorySampler *t, const char *const *list, int first, int end, int except, int except2)
{
	for (int i = first; i < end; i++)
		if (i != except && i != except2)
			offer(t, list[i], 1, i);
	return story_take(t, LLM_STORY_CHOICE);
}

#define ONE_OF(t, list) one_of(t, list, 0, COUNT(list), -1, -1)

static bool
either(StorySampler *t, const char *yes, int yes_weight, const char *no, int no_weight)
{
	if (yes_weight > 0)
		offer(t, yes, yes_weight, 1);
	offer(t, no, no_weight, 0);
	return story_take(t, LLM_STORY_CHOICE);
}

/* Depends only on the position, so that it is easily learned. */
static bool
room_for(const Plot *p, int tokens)
{
	return p->t->story->count + tokens + CLOSE <= LLM_STORY_TOKENS;
}

/* ---- the beginning ---- */

/* It was May and the wind was cold and the lake was calm. */
static void
scenery(StorySampler *t)
{
	int noun = -1, mood = -1;

	say(t, "It was");
	ONE_OF(t, SEASONS);
	for (int left = MAX_CLAUSES; either(t, " and", left, ".", 2); left--)
	{
		say(t, " the");
		noun = one_of(t, SCENERY, 0, COUNT(SCENERY), noun, -1);
		say(t, " was");
		mood = one_of(t, MOODS, 0, COUNT(MOODS), mood, -1);
	}
}

/*
 * There was a red kite Anna Bell took to the garden and an odd coin Tom Reed took to the barn. The two
 * persons' things and places differ. (Each name follows its thing: with words between them, models did not
 * learn in time who has what.)
 */
static void
introduce(Plot *p, int i)
{
	StorySampler *t = p->t;
	Person *one = &p->person[i];
	const Person *other = i == 0 ? NULL : &p->person[0];
	const Thing *its = i == 0 ? NULL : &p->thing[0];
	int an;

	say(t, i == 0 ? " There was" : " and");
	an = either(t, " an", COUNT(ADJECTIVES) - VOWELS - (its && its->adjective >= VOWELS), " a",
		VOWELS - (its && its->adjective < VOWELS));
	p->thing[i].adjective = one_of(
		t, ADJECTIVES, an ? VOWELS : 0, an ? COUNT(ADJECTIVES) : VOWELS, its ? its->adjective : -1, -1);
	p->thing[i].noun = one_of(t, THINGS, 0, COUNT(THINGS), its ? its->noun : -1, -1);
	p->thing[i].holder = i;
	/* A girl and a boy, so that a pronoun identifies the person. */
	one->name = one_of(t, NAMES, other && other->name < GIRLS ? GIRLS : 0,
		other && other->name >= GIRLS ? GIRLS : COUNT(NAMES), -1, -1);
	one->surname = one_of(t, SURNAMES, 0, COUNT(SURNAMES), other ? other->surname : -1, -1);
	say(t, " took to the");
	one->place = one_of(t, PLACES, 0, COUNT(PLACES), other ? other->place : -1, -1);
	if (i == 1)
		say(t, ".");
}

/* ---- referring to what was said before ---- */

static int
one_person(Plot *p)
{
	for (int i = 0; i < 2; i++)
		offer(p->t, NAMES[p->person[i].name], 1, i);
	return story_take(p->t, LLM_STORY_CHOICE);
}

static void
surname(Plot *p, int i)
{
	recall(p->t, SURNAMES[p->person[i].surname], LLM_STORY_SURNAME_COPY);
}

/* Prefers the one not asked for in the same way the last time. */
static int
one_thing(Plot *p, int *asked)
{
	int i;

	for (i = 0; i < 2; i++)
		offer(p->t, ADJECTIVES[p->thing[i].adjective], i == *asked ? ASK_AGAIN : ASK_ANOTHER, i);
	*asked = i = story_take(p->t, LLM_STORY_CHOICE);
	recall(p->t, THINGS[p->thing[i].noun], LLM_STORY_OBJECT_COPY);
	return i;
}

static bool
is_girl(const Plot *p, int i)
{
	return p->person[i].name < GIRLS;
}

/* ---- the song ---- */

/* Tom Reed sang: lark snow willow moon ember dew. A song ends after 6, 7 or 8 words, all equally often. */
static void
sing(Plot *p)
{
	StorySampler *t = p->t;
	bool used[COUNT(SONG)] = {false};
	int singer = one_person(p), n, word;

	surname(p, singer);
	say(t, " sang:");
	for (n = 0; n < LONGEST_SONG; n++)
	{
		for (int i = 0; i < COUNT(SONG); i++)
			if (!used[i])
				offer(t, SONG[i], n < SHORTEST_SONG ? 1 : LONGEST_SONG - n, i);
		if (n >= SHORTEST_SONG)
			offer(t, ".", COUNT(SONG) - n, COUNT(SONG));
		if ((word = story_take(t, LLM_STORY_CHOICE)) == COUNT(SONG))
			break;
		p->song[n] = word;
		used[word] = true;
	}
	p->song_words = n;
	if (n == LONGEST_SONG)
		say(t, ".");
}

/* At supper they sang: willow moon ember dew. It resumes at any word but the last, so that the order alone
 * does not determine it. */
static void
sing_on(Plot *p)
{
	StorySampler *t = p->t;
	int at;

	say(t, " At");
	ONE_OF(t, HOURS);
	say(t, " they sang:");
	for (int i = 0; i < p->song_words - 1; i++)
		offer(t, SONG[p->song[i]], 1, i);
	at = story_take(t, LLM_STORY_CHOICE);
	while (++at < p->song_words)
		recall(t, SONG[p->song[at]], LLM_STORY_SONG);
	say(t, "."); /* not a word of the song: the song's length tells when it comes */
}

/* ---- a scene ---- */

/* Then Anna ran to the barn. The place is new: neither of the two is there. */
static void
move(Plot *p, int who)
{
	StorySampler *t = p->t;

	ONE_OF(t, VERBS);
	say(t, " to the");
	p->person[who].place = one_of(t, PLACES, 0, COUNT(PLACES), p->person[0].place, p->person[1].place);
	say(t, ".");
}

/* The person who moves; -1 if another question comes first. */
static int
next(Plot *p, bool first, bool may_move, const char *question)
{
	StorySampler *t = p->t;
	int who;

	for (int i = 0; may_move && i < 2; i++)
		offer(t, NAMES[p->person[i].name], 3, i);
	for (int i = 0; may_move && !first && i < COUNT(SOON); i++)
		offer(t, SOON[i], 1, 2);
	if (question)
		offer(t, question, ASK_MORE, -1);
	who = story_take(t, LLM_STORY_CHOICE);
	return who == 2 ? one_person(p) : who;
}

/* Where was Anna Bell? She was in the barn.   Where was the red kite? It was in the barn. */
static void
ask_where(Plot *p)
{
	StorySampler *t = p->t;
	LlmStoryKind kind = LLM_STORY_WHERE;
	int who;

	say(t, " was");
	for (int i = 0; i < 2; i++)
		offer(t, NAMES[p->person[i].name], WHERE_PERSON, i);
	offer(t, " the", WHERE_THING, 2);
	if ((who = story_take(t, LLM_STORY_CHOICE)) < 2)
	{
		surname(p, who);
		say(t, "?");
		recall(t, is_girl(p, who) ? " She" : " He", LLM_STORY_PRONOUN);
	}
	else
	{
		who = p->thing[one_thing(p, &p->asked[1])].holder;
		say(t, "? It");
		kind = LLM_STORY_WHERE_BY_HOLDER;
	}
	say(t, " was in the");
	recall(t, PLACES[p->person[who].place], kind);
	say(t, ".");
}

/* They saw the red kite Anna had, and she sent it to Tom. */
static void
see(Plot *p)
{
	StorySampler *t = p->t;
	int thing, holder;

	say(t, " saw the");
	thing = one_thing(p, &p->asked[0]);
	holder = p->thing[thing].holder;
	recall(t, NAMES[p->person[holder].name], LLM_STORY_WHO);
	say(t, " had");
	if (!either(t, ",", !p->gift_made && room_for(p, GIFT + 1) ? GIVES : 0, ".", KEEPS))
		return;
	say(t, " and");
	recall(t, is_girl(p, holder) ? " she" : " he", LLM_STORY_PRONOUN);
	say(t, " sent it to");
	recall(t, NAMES[p->person[1 - holder].name], LLM_STORY_RECIPIENT);
	say(t, ".");
	p->thing[thing].holder = 1 - holder;
	p->gift_made = true;
}

/*
 * Somebody moves; then questions ask where somebody or something was, or the persons see who has what, in
 * turn, so that neither comes twice in a row.
 */
static void
scenes(Plot *p)
{
	bool where = false;

	for (int i = 0; i < MAX_EVENTS; i++)
	{
		bool may_move = i == 0 || room_for(p, MOVE + WHO);
		bool may_ask = i > 0 && room_for(p, where ? WHO : WHERE);
		int who;

		if (!may_move && !may_ask)
			break;
		who = next(p, i == 0, may_move, may_ask ? (where ? " They" : " Where") : NULL);
		if (who >= 0)
			move(p, who);
		where =
			who < 0 ? !where : either(p->t, " Where", room_for(p, WHERE) ? ASK_WHERE : 0, " They", SEE_WHO);
		if (where)
			ask_where(p);
		else
			see(p);
	}
}

/* ---- the whole story ---- */

/* All was well. The first word of an ending is the choice. */
static void
end(StorySampler *t)
{
	int i;

	for (i = 0; i < COUNT(ENDINGS); i++)
		story_offer(t, ENDINGS[i], story_piece(ENDINGS[i], strlen(ENDINGS[i])), 1, i);
	i = story_take(t, LLM_STORY_CHOICE);
	say(t, ENDINGS[i] + story_piece(ENDINGS[i], strlen(ENDINGS[i])));
}

void
story_grammar(StorySampler *t)
{
	Plot plot = {.t = t, .asked = {-1, -1}}, *p = &plot;

	scenery(t);
	introduce(p, 0);
	introduce(p, 1);
	sing(p);
	scenes(p);
	sing_on(p);
	end(t);
}
