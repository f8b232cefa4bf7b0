/*
 * Which cached data a role may see. Using a copy in memory bypasses the executor, which checks rights and row
 * security; policies may depend on the role, on settings and on other tables, and may change.
 */
#ifndef LLM_SRC_BASE_VISIBLE_H
#define LLM_SRC_BASE_VISIBLE_H

#include "postgres.h"

typedef enum VisibleKind
{
	VISIBLE_MODEL,
	VISIBLE_TOKENIZER
} VisibleKind;

/* The rows a copy was read from. */
typedef struct Visible
{
	Oid user;
	bool limited; /* row security hides rows: count and places identify the rest */
	int64 count, places;
} Visible;

/* ERROR if the role may not SELECT from the tables. */
extern void VisibleCheckRights(VisibleKind kind);
/*
 * True if the role may read every row of the tables, so that a copy made by another role reveals nothing new.
 */
extern bool VisibleAll(VisibleKind kind);
/* Identifies the rows that the role sees now. */
extern Visible VisibleRows(VisibleKind kind, const char *name);
/* True if the role would now read exactly these rows. False also if it may read none. */
extern bool VisibleStill(VisibleKind kind, const char *name, const Visible *then);

#endif
