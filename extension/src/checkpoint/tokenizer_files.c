/*
 * A tokenizer's files on the server: read for pg_llm_load_tokenizer, and written beside exported weights.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "src/base/errors.h"
#include "src/base/spi.h"
#include "src/checkpoint/export_file.h"
#include "src/checkpoint/import_file.h"
#include "src/checkpoint/tokenizer_files.h"

PG_FUNCTION_INFO_V1(llm_server_text);
PG_FUNCTION_INFO_V1(pg_llm_export_tokenizer);

/* (path text) -> the text of a file on the server; NULL if there is none */
Datum
llm_server_text(PG_FUNCTION_ARGS)
{
	char *text;

	ServerFileAllow(false);
	text = ServerFileText(ServerFilePath(PG_GETARG_DATUM(0), false), MaxAllocSize - 1);
	if (text == NULL)
		PG_RETURN_NULL();
	if (strncmp(text, "\xef\xbb\xbf", 3) == 0) /* a byte order mark, as some editors write */
		text += 3;
	PG_RETURN_TEXT_P(cstring_to_text(pg_any_to_server(text, (int) strlen(text), PG_UTF8)));
}

static void
Produce(const LlmSink *sink, void *arg)
{
	const char *content = arg;
	LlmError err;

	LLM_CHECK(sink->write(sink->context, content, strlen(content), &err), &err);
}

int
WriteTokenizer(const char *folder, const char *model)
{
	static SpiQuery files = {
		"SELECT name, content FROM %s.llm_tokenizer_files($1)", 1, {TEXTOID}, .columns = "ss"};
	Datum value = CStringGetTextDatum(model);
	SPITupleTable *rows;
	int count;

	SpiRun(&files, &value, NULL, true, 0);
	rows = SPI_tuptable;
	count = (int) SPI_processed;
	for (int i = 0; i < count; i++)
		WriteServerFile(psprintf("%s/%s", folder, SpiField((uint64) i, 1)), Produce,
			ServerToUtf8(SpiField((uint64) i, 2)));
	SPI_freetuptable(rows);
	return count;
}

/* (path text, model text) -> the number of files */
Datum
pg_llm_export_tokenizer(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(1)), *path;
	int count;

	ServerFileAllow(true);
	path = ServerFilePath(PG_GETARG_DATUM(0), false);
	if (ServerFileKind(path) != 'd')
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is no folder", path),
						   errhint("A tokenizer is written as several files: name an existing folder.")));
	SPI_connect();
	count = WriteTokenizer(path, model);
	SPI_finish();
	if (count == 0)
		ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no tokenizer for model \"%s\"", model),
				errhint("SELECT DISTINCT model FROM llm_bpe_vocab lists what there is.")));
	PG_RETURN_INT32(count);
}
