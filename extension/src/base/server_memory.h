/*
 * Accounts for the memory of all sessions of the server, so that many sessions within their own limits do not
 * make the kernel kill the server.
 */
#ifndef LLM_SRC_BASE_SERVER_MEMORY_H
#define LLM_SRC_BASE_SERVER_MEMORY_H

#include "postgres.h"

extern int pg_llm_server_memory_limit_mb; /* 0 = none */

/*
 * Requests that this session may hold this many bytes in total. False if all sessions together would exceed
 * the limit; the session's count is then unchanged. Of several concurrent requests, only those that fit
 * succeed.
 */
extern bool ServerMemoryAsk(Size bytes);
/* Records that this session holds this many bytes, whether or not they fit the limit. Costs an atomic
 * addition. */
extern void ServerMemoryTell(Size bytes);
/* The bytes held by all sessions. */
extern Size ServerMemoryHeld(void);
/* True if memory is so scarce that caches should be evicted. */
extern bool ServerMemoryScarce(void);

#endif
