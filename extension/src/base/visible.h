/*
 * What a role may see of what is cached. Using a copy in memory does not go through the executor, which looks
 * at rights and at row security; policies may depend on the role, on settings and on other tables, and
 * change.
 */
#ifndef LLM_SRC_BASE_VISIBLE_H
#define LLM_SRC_BASE_VISIBLE_H

#include "postgres.h"

typedef enum VisibleKind
{
	VISIBLE_MODEL,
	VISIBLE_TOKENIZER
} VisibleKind;

/* Which rows a copy was read from. */
typedef struct Visible
{
	Oid user;
	bool limited; /* by row security; then the rows' number and a hash of their places tell */
	int64 count, places;
} Visible;

/* ERROR where the role may not SELECT from the tables. */
extern void VisibleCheckRights(VisibleKind kind);
/* May the role read every row of the tables, so that a copy made by another role tells it nothing new? */
extern bool VisibleAll(VisibleKind kind);
/* The rows that the role sees now. */
extern Visible VisibleRows(VisibleKind kind, const char *name);
/* Would the role read the very rows now? False also where it may read none. */
extern bool VisibleStill(VisibleKind kind, const char *name, const Visible *then);

#endif
