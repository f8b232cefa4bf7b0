/*
 * Errors of the server-less layers.
 */
#include "common/base.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

const char *
llm_decimal(double x, char out[32])
{
	if (isnan(x) || isinf(x))
		return strcpy(out, isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
	for (int digits = 6; digits <= 17; digits++)
	{
		double read;

		snprintf(out, 32, "%.*g", digits, x);
		read = strtod(out, NULL);
		if (read == x || (x == (float) x && (float) read == (float) x))
			break;
	}
	return out;
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
