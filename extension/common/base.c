/*
 * Errors of the server-less layers.
 */
#include "common/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Text that does not fit is cut at a UTF-8 character boundary and ends in "...". */
__attribute__((format(printf, 3, 0))) static void
format_text(char *text, size_t size, const char *format, va_list args)
{
	int length = vsnprintf(text, size, format, args);
	size_t end;

	if (length < 0 || (size_t) length < size)
		return;
	for (end = size - 4; end > 0 && ((unsigned char) text[end] & 0xc0) == 0x80;)
		end--;
	strcpy(text + end, "...");
}

LlmCode
llm_fail(LlmError *err, LlmCode code, const char *format, ...)
{
	va_list args;

	err->code = code;
	err->detail[0] = err->hint[0] = '\0';
	va_start(args, format);
	format_text(err->message, sizeof(err->message), format, args);
	va_end(args);
	return code;
}

LlmCode
llm_hint(LlmError *err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	format_text(err->hint, sizeof(err->hint), format, args);
	va_end(args);
	return err->code;
}
