/*
 * Every table that models read has row triggers that raise the model's version once per command (and a
 * TRUNCATE trigger that raises all versions). The number comes from a sequence: no two states of a model ever
 * share one, and the number of a rolled-back change is never used again.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "nodes/pg_list.h"

#include "src/base/changes.h"
#include "src/base/shared_copy.h"
#include "src/model/version_row.h"

static void
Raise(List *models)
{
	ListCell *cell;

	foreach (cell, models)
		SharedOutdate(lfirst(cell), VersionRaise(lfirst(cell)));
}

static void
Touch(const char *model)
{
	if (model != NULL && ChangeFirst(CHANGE_VERSION, model))
		Raise(VersionSharers(model));
}

/* AFTER each row: raises the version of the model in the column named by the trigger's argument ("model"). */
PG_FUNCTION_INFO_V1(llm_touch_version);
Datum
llm_touch_version(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = ChangeTrigger(fcinfo);
	const char *column;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		NoteChange();
		Raise(VersionModels());
		return PointerGetDatum(NULL);
	}
	column = trigger->tg_trigger->tgnargs > 0 ? trigger->tg_trigger->tgargs[0] : "model";
	Touch(ChangedModel(trigger, trigger->tg_trigtuple, column));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		Touch(ChangedModel(trigger, trigger->tg_newtuple, column));
	return PointerGetDatum(NULL);
}
