/*
 * Shape checks at plan time. If both operands' shapes are declared (a column tensor(4,3), a constant), an
 * operator whose shapes cannot match is rejected before any row is read. Otherwise the shape of the result is
 * attached to it, so that the enclosing expression is checked too.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pg_list.h"
#include "nodes/supportnodes.h"
#include "nodes/value.h"
#include "utils/lsyscache.h"

#include "engine/broadcast.h"
#include "engine/convolution.h"
#include "engine/layout.h"
#include "engine/ops/direct.h"
#include "engine/sql_layers.h"
#include "src/base/errors.h"
#include "src/tensor/tensor.h"

PG_FUNCTION_INFO_V1(tensor_broadcast_support);
PG_FUNCTION_INFO_V1(tensor_matmul_support);
PG_FUNCTION_INFO_V1(tensor_same_shape_support);
PG_FUNCTION_INFO_V1(tensor_transpose_support);
PG_FUNCTION_INFO_V1(tensor_layernorm_support);
PG_FUNCTION_INFO_V1(tensor_rmsnorm_support);
PG_FUNCTION_INFO_V1(tensor_attention_support);
PG_FUNCTION_INFO_V1(tensor_conv2d_support);
PG_FUNCTION_INFO_V1(tensor_groupnorm_support);

/* Shape of the n-th argument, if it is known before execution. A number next to a tensor is a scalar. */
static bool
ArgumentShape(const FuncExpr *call, int n, LlmShape *shape)
{
	Node *arg = list_nth(call->args, n);
	int32 typmod = exprTypmod(arg);

	if (exprType(arg) != call->funcresulttype)
	{
		shape->ndim = 0;
		return exprType(arg) == FLOAT8OID;
	}
	if (IsA(arg, Const) && !((Const *) arg)->constisnull)
	{
		Tensor *header = DatumGetTensorHeader(((Const *) arg)->constvalue);

		shape->ndim = header->ndim;
		memcpy(shape->dims, header->dims, sizeof(int) * header->ndim);
		return true;
	}
	if (typmod < 0)
		return false;
	shape->ndim = TypmodToShape(typmod, shape->dims);
	return true;
}

/* The operator equivalent to a function call, so that EXPLAIN still shows a @ b. */
static Expr *
CopyCall(const FuncExpr *call, const char *sign)
{
	Oid types[2] = {InvalidOid, InvalidOid};
	int n = list_length(call->args);
	Oid operator_oid = InvalidOid;

	if (sign != NULL)
	{
		for (int i = 0; i < n; i++)
			types[2 - n + i] = exprType(list_nth(call->args, i));
		operator_oid =
			OpernameGetOprid(list_make2(makeString(get_namespace_name(get_func_namespace(call->funcid))),
								 makeString(pstrdup(sign))),
				types[0], types[1]);
	}
	if (OidIsValid(operator_oid) && get_opcode(operator_oid) == call->funcid)
	{
		OpExpr *op = makeNode(OpExpr);

		op->opno = operator_oid;
		op->opfuncid = call->funcid;
		op->opresulttype = call->funcresulttype;
		op->args = call->args;
		op->location = call->location;
		return (Expr *) op;
	}
	return (Expr *) makeFuncExpr(call->funcid, call->funcresulttype, call->args, call->funccollid,
		call->inputcollid, COERCE_EXPLICIT_CALL);
}

/*
 * The call with its result's shape attached; NULL (no change) if no type modifier can represent that shape.
 */
static Node *
WithShape(const FuncExpr *call, const char *sign, const LlmShape *shape)
{
	LlmError err = {0};
	int32 typmod = TypmodFromShape(shape->ndim, shape->dims, &err);

	if (typmod < 0)
		return NULL;
	return (Node *) makeRelabelType(
		CopyCall(call, sign), call->funcresulttype, typmod, InvalidOid, COERCE_IMPLICIT_CAST);
}

static FuncExpr *
SimplifiedCall(FunctionCallInfo fcinfo)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	return IsA(request, SupportRequestSimplify) ? ((SupportRequestSimplify *) request)->fcall : NULL;
}

/* The operation's name ("add" for tensor_add and pg_llm_add) and the symbol written between its operands. */
static const char *
OpName(Oid function, const char **sign)
{
	static const char *const signs[][2] = {
		{"add", "+"}, {"sub", "-"}, {"mul", "*"}, {"div", "/"}, {"matmul", "@"}, {"neg", "-"}};
	char *name = get_func_name(function);

	*sign = NULL;
	if (name == NULL)
		return "?";
	if (strncmp(name, "tensor_", 7) == 0)
		name += 7;
	else if (strncmp(name, "pg_llm_", 7) == 0)
		name += 7;
	for (int i = 0; i < lengthof(signs); i++)
		if (strcmp(name, signs[i][0]) == 0)
			*sign = signs[i][1];
	return name;
}

Datum
tensor_broadcast_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	const char *name, *sign;
	LlmShape a, b, out;

	if (call == NULL || !ArgumentShape(call, 0, &a) || !ArgumentShape(call, 1, &b))
		PG_RETURN_POINTER(NULL);
	name = OpName(call->funcid, &sign);
	LLM_CHECK(llm_broadcast_shape(
				  name, sign ? sign : "and", a.ndim, a.dims, b.ndim, b.dims, &out.ndim, out.dims, &err),
		&err);
	PG_RETURN_POINTER(WithShape(call, sign, &out));
}

Datum
tensor_matmul_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape a, b, out;

	if (call == NULL || !ArgumentShape(call, 0, &a) || !ArgumentShape(call, 1, &b))
		PG_RETURN_POINTER(NULL);
	LLM_CHECK(llm_matmul_shape("matmul", a.ndim, a.dims, b.ndim, b.dims, &out.ndim, out.dims, &err), &err);
	PG_RETURN_POINTER(WithShape(call, "@", &out));
}

Datum
tensor_same_shape_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	const char *sign;
	LlmShape shape;

	if (call == NULL || !ArgumentShape(call, 0, &shape))
		PG_RETURN_POINTER(NULL);
	OpName(call->funcid, &sign);
	PG_RETURN_POINTER(WithShape(call, sign, &shape));
}

/* Handles only the plain form, which swaps the last two axes. */
Datum
tensor_transpose_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape shape, out;
	int order[LLM_MAX_DIMS];
	Node *axes;

	if (call == NULL || !ArgumentShape(call, 0, &shape))
		PG_RETURN_POINTER(NULL);
	axes = list_length(call->args) > 1 ? lsecond(call->args) : NULL;
	if (axes != NULL && !(IsA(axes, Const) && ((Const *) axes)->constisnull))
		PG_RETURN_POINTER(NULL);
	LLM_CHECK(llm_permute_shape(shape.ndim, shape.dims, 0, NULL, order, out.dims, &err), &err);
	out.ndim = shape.ndim;
	PG_RETURN_POINTER(WithShape(call, NULL, &out));
}

Datum
tensor_layernorm_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape x, gamma, beta;

	if (call == NULL || !ArgumentShape(call, 0, &x))
		PG_RETURN_POINTER(NULL);
	if (ArgumentShape(call, 1, &gamma) && ArgumentShape(call, 2, &beta))
		LLM_CHECK(
			llm_layernorm_shape(x.ndim, x.dims, gamma.ndim, gamma.dims, beta.ndim, beta.dims, &err), &err);
	PG_RETURN_POINTER(WithShape(call, NULL, &x));
}

Datum
tensor_rmsnorm_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape x, weight;

	if (call == NULL || !ArgumentShape(call, 0, &x))
		PG_RETURN_POINTER(NULL);
	if (ArgumentShape(call, 1, &weight))
		LLM_CHECK(llm_rmsnorm_shape(x.ndim, x.dims, weight.ndim, weight.dims, &err), &err);
	PG_RETURN_POINTER(WithShape(call, NULL, &x));
}

Datum
tensor_attention_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape x, weights[4];
	Node *heads;

	if (call == NULL || !ArgumentShape(call, 0, &x))
		PG_RETURN_POINTER(NULL);
	heads = list_nth(call->args, 5);
	if (IsA(heads, Const) && !((Const *) heads)->constisnull && ArgumentShape(call, 1, &weights[0]) &&
		ArgumentShape(call, 2, &weights[1]) && ArgumentShape(call, 3, &weights[2]) &&
		ArgumentShape(call, 4, &weights[3]))
		LLM_CHECK(llm_attention_shape(&x, weights, DatumGetInt32(((Const *) heads)->constvalue), &err), &err);
	PG_RETURN_POINTER(WithShape(call, NULL, &x));
}

/* Is the n-th argument an integer that is known when the query is planned? */
static bool
ConstantInt(const FuncExpr *call, int n, int *value)
{
	Node *arg = list_nth(call->args, n);

	if (!IsA(arg, Const) || ((Const *) arg)->constisnull)
		return false;
	*value = DatumGetInt32(((Const *) arg)->constvalue);
	return true;
}

Datum
tensor_conv2d_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape x, weight, out = {.ndim = 4};
	LlmConvHow how;
	LlmConv c;
	int padding;

	if (call == NULL || !ArgumentShape(call, 0, &x) || !ArgumentShape(call, 1, &weight) ||
		!ConstantInt(call, 3, &how.stride) || !ConstantInt(call, 4, &padding) ||
		!ConstantInt(call, 5, &how.groups) || how.stride < 1 || padding < 0 || padding > LLM_MAX_PADDING)
		PG_RETURN_POINTER(NULL);
	for (int i = 0; i < 4; i++)
		how.pad[i] = padding;
	LLM_CHECK(llm_conv_shape(x.ndim, x.dims, weight.ndim, weight.dims, 0, NULL, &how, &c, &err), &err);
	memcpy(out.dims, (int[]){c.B, c.OC, c.OH, c.OW}, 4 * sizeof(int));
	PG_RETURN_POINTER(WithShape(call, NULL, &out));
}

Datum
tensor_groupnorm_support(PG_FUNCTION_ARGS)
{
	FuncExpr *call = SimplifiedCall(fcinfo);
	LlmError err = {0};
	LlmShape x, gamma, beta;
	int groups;

	if (call == NULL || !ArgumentShape(call, 0, &x))
		PG_RETURN_POINTER(NULL);
	if (ArgumentShape(call, 1, &gamma) && ArgumentShape(call, 2, &beta) && ConstantInt(call, 3, &groups))
		LLM_CHECK(
			llm_groupnorm_shape(x.ndim, x.dims, gamma.ndim, gamma.dims, beta.ndim, beta.dims, groups, &err),
			&err);
	PG_RETURN_POINTER(WithShape(call, NULL, &x));
}
