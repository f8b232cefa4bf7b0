-- Consistency of models: version numbers raised by every change, and graphs checked as a whole.

CREATE FUNCTION llm_default_model() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_default_model() IS
    'The model that functions use when none is named: the setting pg_llm.default_model, gpt2-small by default';

CREATE FUNCTION _llm_begin_change() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'llm_begin_change';
COMMENT ON FUNCTION _llm_begin_change() IS 'Trigger: a command starts or ends on a table that models read';

CREATE FUNCTION llm_tokenizer(model text DEFAULT @extschema@.llm_default_model()) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- By min, which is one look at the index: EXISTS is planned as a scan of all vocabularies.
    SELECT CASE
        WHEN (SELECT min(v.token_id) FROM @extschema@.llm_bpe_vocab AS v WHERE v.model = llm_tokenizer.model) >= 0
        THEN llm_tokenizer.model
        ELSE (SELECT c.tokenizer FROM @extschema@.llm_model_config AS c WHERE c.model = llm_tokenizer.model) END;
END;
COMMENT ON FUNCTION llm_tokenizer(text) IS
    'Under which name the tokenizer of a model has its rows: the model''s own if llm_bpe_vocab has it, else '
    'llm_model_config.tokenizer; NULL where there is neither';

-- Nothing here is SECURITY DEFINER. A role that may write a table that models read can raise the model's
-- version, because C writes that row directly, without SQL: a trigger or policy that a role adds to a table
-- never executes with another role's rights (SECURITY.md).
CREATE FUNCTION _llm_touch_version() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'llm_touch_version';
COMMENT ON FUNCTION _llm_touch_version() IS
    'Trigger: increases llm_model_version of the changed row''s model, once per command';

CREATE FUNCTION _llm_check_graph() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'llm_check_graph';
COMMENT ON FUNCTION _llm_check_graph() IS
    'Constraint trigger: refuses a graph whose shapes do not fit and stores the inferred ones';

-- They fire for all roles; no role may create triggers with them on its own tables.
REVOKE EXECUTE ON FUNCTION _llm_touch_version(), _llm_check_graph() FROM PUBLIC;

DO $$
DECLARE
    item text[];
    name text;
BEGIN
    FOREACH item SLICE 1 IN ARRAY ARRAY[['llm_model_config', 'model'], ['llm_graph', 'model'], ['llm_param', 'model'],
        ['llm_param_share', 'target_model'], ['llm_bpe_vocab', 'model'], ['llm_bpe_merges', 'model'],
        ['llm_bpe_config', 'model']]
    LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER llm_begin_change BEFORE INSERT OR UPDATE OR DELETE ON @extschema@.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@._llm_begin_change()', item[1]);
        EXECUTE pg_catalog.format('CREATE TRIGGER llm_end_change AFTER INSERT OR UPDATE OR DELETE ON @extschema@.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@._llm_begin_change()', item[1]);
        EXECUTE pg_catalog.format('CREATE TRIGGER llm_touch_version AFTER INSERT OR UPDATE OR DELETE ON @extschema@.%I '
            'FOR EACH ROW EXECUTE FUNCTION @extschema@._llm_touch_version(%L)', item[1], item[2]);
        EXECUTE pg_catalog.format('CREATE TRIGGER llm_touch_version_truncate AFTER TRUNCATE ON @extschema@.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION @extschema@._llm_touch_version()', item[1]);
        FOREACH name IN ARRAY
            ARRAY['llm_begin_change', 'llm_end_change', 'llm_touch_version', 'llm_touch_version_truncate']
        LOOP
            EXECUTE pg_catalog.format('ALTER TABLE @extschema@.%I ENABLE ALWAYS TRIGGER %I', item[1], name);
        END LOOP;
    END LOOP;
END $$;

CREATE CONSTRAINT TRIGGER llm_graph_fits AFTER INSERT OR UPDATE OR DELETE ON llm_graph
    DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION _llm_check_graph();
ALTER TABLE llm_graph ENABLE ALWAYS TRIGGER llm_graph_fits;
COMMENT ON TRIGGER llm_graph_fits ON llm_graph IS
    'Shapes must fit when the statement ends; for several statements: SET CONSTRAINTS llm_graph_fits DEFERRED';

-- The dimensions to which the names in shapes refer.
CREATE CONSTRAINT TRIGGER llm_graph_fits AFTER UPDATE OF d_model, vocab, n_positions, d_ff ON llm_model_config
    DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION _llm_check_graph();
ALTER TABLE llm_model_config ENABLE ALWAYS TRIGGER llm_graph_fits;
COMMENT ON TRIGGER llm_graph_fits ON llm_model_config IS 'A model''s graph must fit its new dimensions too';

CREATE FUNCTION llm_param_shapes(model text, OUT name text, OUT shape int[], OUT init text, OUT std float8)
    RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION llm_param_shapes(text) IS
    'The parameters of a model''s graph: name, shape as integers, initialisation';

INSERT INTO llm_op (op, min_inputs, max_inputs, shape_rule, formula, gradient, attributes) VALUES
    ($$input$$, 0, 0, $$declared by the attribute shape$$, $$x$$, $$\text{none: an input is data}$$,
        $${"shape": "list of dimensions, e.g. [\"B\", \"T\"]", "dtype": "int or float"}$$),
    ($$param$$, 0, 0, $$declared by the attribute shape$$, $$\theta$$,
        $$\bar\theta = \sum_{\text{uses}} \bar\theta_{\text{use}}$$,
        $${"shape": "list of numbers or the names C, V, P, F", "init": "normal, zeros or ones",
        "std": "standard deviation of init normal", "trainable": "false: frozen, training leaves it as it is"}$$),
    ($$constant$$, 0, 0, $$that of the attribute value$$, $$c$$, $$\text{none: a constant is not trained}$$,
        $${"value": "a number or a nested list of numbers, at most 4096"}$$),
    ($$embedding$$, 2, 2, $$(…), (V,C) -> (…,C)$$, $$y_{t} = W_{x_t}$$, $$\bar W_v = \sum_{t : x_t = v} \bar y_t$$,
        $${}$$),
    ($$matmul$$, 2, 2,
        $$(…,M,K), (…,K,N) -> (…,M,N); leading dimensions broadcast, a 1-D input is a row or a column$$,
        $$Y = X W$$, $$\bar X = \bar Y W^\top,\quad \bar W = X^\top \bar Y$$,
        $${"transpose_b": "true: the second input is (…,N,K)"}$$),
    ($$add$$, 2, 2, $$broadcast$$, $$z = x + y$$,
        $$\bar x = \bar z,\quad \bar y = \bar z \text{ (summed over broadcast axes)}$$, $${}$$),
    ($$sub$$, 2, 2, $$broadcast$$, $$z = x - y$$, $$\bar x = \bar z,\quad \bar y = -\bar z$$, $${}$$),
    ($$mul$$, 2, 2, $$broadcast$$, $$z = x \odot y$$, $$\bar x = \bar z \odot y,\quad \bar y = \bar z \odot x$$,
        $${}$$),
    ($$div$$, 2, 2, $$broadcast$$, $$z = x / y$$, $$\bar x = \bar z / y,\quad \bar y = -\bar z \odot z / y$$,
        $${}$$),
    ($$neg$$, 1, 1, $$same$$, $$y = -x$$, $$\bar x = -\bar y$$, $${}$$),
    ($$exp$$, 1, 1, $$same$$, $$y = e^{x}$$, $$\bar x = \bar y \odot y$$, $${}$$),
    ($$log$$, 1, 1, $$same$$, $$y = \ln x$$, $$\bar x = \bar y / x$$, $${}$$),
    ($$sqrt$$, 1, 1, $$same$$, $$y = \sqrt{x}$$, $$\bar x = \bar y / (2 y)$$, $${}$$),
    ($$tanh$$, 1, 1, $$same$$, $$y = \tanh x$$, $$\bar x = \bar y \odot (1 - y^2)$$, $${}$$),
    ($$relu$$, 1, 1, $$same$$, $$y = \max(x, 0)$$, $$\bar x = \bar y \odot [x > 0]$$, $${}$$),
    ($$gelu$$, 1, 1, $$same$$,
        $$y = \tfrac{x}{2}\bigl(1 + \tanh\bigl(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\bigr)\bigr) \approx x\,\Phi(x)$$,
        $$\bar x = \bar y \odot \tfrac{d}{dx}\operatorname{gelu}(x)$$,
        $${"approximate": "tanh (GPT-2) or none (exact, by erf)"}$$),
    ($$sigmoid$$, 1, 1, $$same$$, $$y = \frac{1}{1 + e^{-x}}$$, $$\bar x = \bar y \odot y \odot (1 - y)$$, $${}$$),
    ($$silu$$, 1, 1, $$same$$, $$y = x \odot \sigma(x) = \frac{x}{1 + e^{-x}}$$,
        $$\bar x = \bar y \odot \sigma(x) \odot \bigl(1 + x \odot (1 - \sigma(x))\bigr)$$, $${}$$),
    ($$sin$$, 1, 1, $$same$$, $$y = \sin x$$, $$\bar x = \bar y \odot \cos x$$, $${}$$),
    ($$cos$$, 1, 1, $$same$$, $$y = \cos x$$, $$\bar x = -\bar y \odot \sin x$$, $${}$$),
    ($$softmax$$, 1, 1, $$same; runs along an axis add up to 1$$,
        $$y_i = \frac{e^{x_i - \max x}}{\sum_j e^{x_j - \max x}}$$,
        $$\bar x_i = y_i \bigl(\bar y_i - \sum_j \bar y_j y_j\bigr)$$,
        $${"axis": "counted from 0, or from -1, the last, which it is where absent"}$$),
    ($$log_softmax$$, 1, 1, $$same; the exponentials of a run along an axis add up to 1$$,
        $$y_i = x_i - \max x - \ln \textstyle\sum_j e^{x_j - \max x}$$,
        $$\bar x_i = \bar y_i - e^{y_i} \textstyle\sum_j \bar y_j$$,
        $${"axis": "counted from 0, or from -1, the last, which it is where absent"}$$),
    ($$layernorm$$, 3, 3, $$(…,C), (C), (C) -> (…,C)$$,
        $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta$$,
        '\bar x = \tfrac{1}{\sigma}\bigl(\bar n - \operatorname{mean}(\bar n) '
        '- n \odot \operatorname{mean}(\bar n \odot n)\bigr),\ \bar n = \bar y \odot \gamma',
        $${"eps": "added to the variance, 1e-5"}$$),
    ($$rmsnorm$$, 2, 2, $$(…,C), (C) -> (…,C)$$,
        $$y = \frac{x}{r} \odot w,\ r = \sqrt{\operatorname{mean}(x^2) + \epsilon}$$,
        '\bar x = \tfrac{1}{r}\bigl(\bar n - n \odot \operatorname{mean}(\bar n \odot n)\bigr),\ '
        '\bar n = \bar y \odot w,\ n = x / r',
        $${"eps": "added to the mean square, 1e-5"}$$),
    ($$attention$$, 1, 4,
        '(B,T,3*C) -> (B,T,C); or (B,T,n_head*HS), (B,S,n_kv_head*HS), (B,S,n_kv_head*HS) -> (B,T,n_head*HS), and a '
        'bias (…,T,S), or a table of more positions; all without B too',
        $$y_h = \operatorname{softmax}\Bigl(\frac{Q_h K_h^\top}{\sqrt{HS}} + \text{mask}\Bigr) V_h$$,
        '\bar V = P^\top \bar y,\ \bar S = P \odot (\bar P - \textstyle\sum P \odot \bar P),'
        '\ \bar Q = \bar S K / \sqrt{HS},\ \bar K = \bar S^\top Q / \sqrt{HS}', $${"n_head": "number of heads",
        "n_kv_head": "heads of keys and values, each for n_head / n_kv_head heads of queries; null: n_head",
        "causal": "true: a position sees itself and earlier ones",
        "window": "how many keys a position sees; null: all", "scale": "of the scores; 1/sqrt(HS)",
        "slopes": "one number per head: its product with the distance is subtracted from the scores (ALiBi)",
        "pattern": "strided: the last stride keys, and every stride-th; fixed: blocks of stride keys, and their ends",
        "stride": "of the pattern", "summary": "how many keys end a block of the pattern fixed; 1",
        "head_mask": "one number per head that multiplies its output; 0 ablates",
        "dropout": "probability, in training"}$$),
    ($$rope$$, 2, 2, $$(…,T,n_head*HS), positions (T) or (…,T) -> same$$,
        '\begin{pmatrix} y_a \\ y_b \end{pmatrix} = '
        '\begin{pmatrix} \cos t\omega_i & -\sin t\omega_i \\ \sin t\omega_i & \cos t\omega_i \end{pmatrix} '
        '\begin{pmatrix} x_a \\ x_b \end{pmatrix},\ \omega_i = \theta^{-2i/\text{dims}}',
        $$\bar x = \bar y \text{ turned by } -t\omega_i$$, $${"n_head": "heads side by side; 1 where absent",
        "theta": "base of the frequencies, 10000", "dims": "channels of each head that are turned; null: all",
        "interleaved": "true: pairs are (0,1), (2,3), … (GPT-J); false: (i, i + dims/2) (Llama, GPT-NeoX)",
        "factor": "divides the frequencies; with the three numbers below, only the low ones (Llama 3)",
        "low_freq_factor": "wavelengths above the original context / this are divided by factor",
        "high_freq_factor": "wavelengths below the original context / this are kept",
        "original_max_position_embeddings": "the original context, in positions"}$$),
    ($$dropout$$, 1, 1, $$same$$,
        $$y = x \odot m / (1 - p),\ m \sim \text{Bernoulli}(1-p) \text{ in training; else } y = x$$,
        $$\bar x = \bar y \odot m / (1 - p)$$, $${"p": "probability; the training call's dropout_p where absent",
        "seed": "text of a whole number: always drops, with the mask of pg_llm_dropout for that seed"}$$),
    ($$cross_entropy$$, 2, 2, $$(…,V), ids (…) or distributions (…,V) -> ()$$,
        $$L = -\frac{1}{N} \sum_t \ln \operatorname{softmax}(x_t)_{y_t}$$,
        $$\bar x_t = \frac{1}{N} (\operatorname{softmax}(x_t) - e_{y_t})$$, $${}$$),
    ($$greater$$, 2, 2, $$broadcast$$, $$z = [x > y]$$, $$\text{none: } z \text{ is constant almost everywhere}$$,
        $${}$$),
    ($$where$$, 3, 3, $$condition, x, y broadcast$$,
        $$z = \begin{cases} x & c \ne 0 \\ y & \text{else} \end{cases}$$,
        $$\bar x = \bar z \odot [c \ne 0],\quad \bar y = \bar z \odot [c = 0]$$, $${}$$),
    ($$stop_gradient$$, 1, 1, $$same$$, $$y = x$$, $$\text{none: } y \text{ counts as a constant}$$, $${}$$),
    ($$clamp$$, 1, 1, $$same$$, $$y = \min(\max(x, a), b)$$, $$\bar x = \bar y \odot [a \le x \le b]$$,
        $${"min": "the bound a; null or absent: none", "max": "the bound b; null or absent: none"}$$),
    ($$abs$$, 1, 1, $$same$$, $$y = |x|$$, $$\bar x = \bar y \odot \operatorname{sign}(x)$$, $${}$$),
    ($$pow$$, 1, 1, $$same$$, $$y = x^{e}$$, $$\bar x = \bar y \odot e\,x^{e - 1}$$,
        $${"exponent": "the number e: products for whole ones from -64 to 64, a root for 0.5, else exp(e log x)"}$$),
    ($$cumsum$$, 1, 1, $$same$$, $$y_i = \textstyle\sum_{j \le i} x_j$$,
        $$\bar x_i = \textstyle\sum_{j \ge i} \bar y_j$$,
        $${"axis": "counted from 0, or from -1, the last, which it is where absent"}$$),
    ($$topk$$, 1, 1, $$(…,N) -> (…,k), or a mask (…,N)$$,
        $$y_j = x_{i_j},\ x_{i_1} \ge x_{i_2} \ge \dots \ge x_{i_k}$$,
        $$\bar x_{i_j} = \bar y_j,\quad 0 \text{ elsewhere; none of indices and masks}$$,
        $${"k": "how many elements are chosen along the last axis", "output": "values, indices or mask"}$$),
    ($$one_hot$$, 1, 1, $$(…) -> (…,size)$$, $$y_{i v} = [v = x_i]$$, $$\text{none: ids are data}$$,
        $${"size": "number or name of a dimension, e.g. V"}$$),
    ($$gather_rows$$, 2, 2, $$(N,…), ids (…) -> rows in the shape of the ids$$, $$y_i = x_{r_i}$$,
        $$\bar x_n = \textstyle\sum_{i : r_i = n} \bar y_i$$, $${}$$),
    ($$scatter_rows$$, 2, 2, $$rows in the shape of the ids, ids (…) -> (size,…)$$,
        $$y_n = \textstyle\sum_{i : r_i = n} x_i$$, $$\bar x_i = \bar y_{r_i}$$,
        $${"size": "how many rows: number or name of a dimension"}$$),
    ($$expert_matmul$$, 3, 3, $$(…,K) or (…,k,K), ids (…,k), (E,K,N) -> (…,k,N)$$, $$y_{ij} = x_i W_{e_{ij}}$$,
        '\bar x_i = \textstyle\sum_j \bar y_{ij} W_{e_{ij}}^\top,\quad '
        '\bar W_e = \textstyle\sum_{ij : e_{ij} = e} x_i^\top \bar y_{ij}', $${}$$),
    ($$mse$$, 2, 2, $$two of one shape -> ()$$, $$L = \frac{1}{n} \sum_i (x_i - y_i)^2$$,
        $$\bar x = \tfrac{2}{n} (x - y),\quad \bar y = -\bar x$$, $${}$$),
    ($$normal$$, 0, 0, $$declared by the attribute shape$$, $$y \sim \mathcal{N}(\mu, \sigma^2)$$,
        $$\text{none: drawn by the seed, the step and the node's name}$$,
        $${"shape": "list of dimensions, e.g. [\"B\", \"T\"]", "mean": "0 where absent", "std": "1 where absent",
        "seed": "text of a whole number: the numbers of randn with that seed in every run"}$$),
    ($$uniform$$, 0, 0, $$declared by the attribute shape$$, $$y \sim \mathcal{U}[a, b)$$,
        $$\text{none: drawn by the seed, the step and the node's name}$$,
        $${"shape": "list of dimensions, e.g. [\"B\", \"T\"]", "low": "the least, 0 where absent",
        "high": "all are less, 1 where absent",
        "seed": "text of a whole number: the numbers of the function uniform with that seed in every run"}$$),
    ($$randint$$, 0, 0, $$declared by the attribute shape$$, $$y \sim \mathcal{U}\{a, \dots, b - 1\}$$,
        $$\text{none: drawn by the seed, the step and the node's name}$$,
        $${"shape": "list of dimensions, e.g. [\"B\"]", "low": "the least, 0 where absent",
        "high": "the first that does not occur",
        "seed": "text of a whole number: the numbers of the function randint with that seed in every run"}$$),
    ($$sum$$, 1, 1, $$the axis goes, or all of them$$, $$y = \sum_i x_i$$, $$\bar x_i = \bar y$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$mean$$, 1, 1, $$the axis goes, or all of them$$, $$y = \frac{1}{n} \sum_i x_i$$, $$\bar x_i = \bar y / n$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$max$$, 1, 1, $$the axis goes, or all of them$$, $$y = \max_i x_i$$,
        $$\bar x_i = \bar y\,[i = \operatorname{argmax} x]$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$min$$, 1, 1, $$the axis goes, or all of them$$, $$y = \min_i x_i$$,
        $$\bar x_i = \bar y\,[i = \operatorname{argmin} x]$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$var$$, 1, 1, $$the axis goes, or all of them$$, $$y = \frac{1}{n} \sum_i (x_i - \mu)^2$$,
        $$\bar x_i = 2 \bar y\,(x_i - \mu) / n$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$norm$$, 1, 1, $$the axis goes, or all of them$$, $$y = \sqrt{\textstyle\sum_i x_i^2}$$,
        $$\bar x_i = \bar y\,x_i / y \text{, and } 0 \text{ where } y = 0$$,
        $${"axis": "counted from 0, or from -1, the last; absent: all elements"}$$),
    ($$reshape$$, 1, 1, $$the attribute shape, of as many elements$$, $$y = x \text{ in another shape}$$,
        $$\bar x = \bar y \text{ in the shape of } x$$,
        $${"shape": "list of dimensions, one of which may be -1: what is left"}$$),
    ($$transpose$$, 1, 1, $$axes in another order$$, $$y_{i_{\pi(1)} \dots i_{\pi(n)}} = x_{i_1 \dots i_n}$$,
        $$\bar x_{i_1 \dots i_n} = \bar y_{i_{\pi(1)} \dots i_{\pi(n)}}$$,
        $${"axes": "each axis of the input once, in the order wanted; absent: the last two swapped"}$$),
    ($$slice$$, 1, 1, $$starts up to, not including, stops along the first axes$$, $$y_i = x_{\text{start} + i}$$,
        $$\bar x_{\text{start} + i} = \bar y_i,\quad 0 \text{ elsewhere}$$,
        $${"starts": "list of positions, negative ones from the end",
        "stops": "list of positions, null for the end", "steps": "list of whole numbers from 1 up; absent: all 1"}$$),
    ($$concat$$, 1, NULL, $$equal but for the joined axis, which grows$$, $$y = [x_1 \mid x_2 \mid \dots]$$,
        $$\bar x_k = \text{its part of } \bar y$$,
        $${"axis": "counted from 0, which it is where absent, or from -1, the last"}$$),
    ($$stack$$, 1, NULL, $$k inputs of one shape -> (k,…)$$, $$y_k = x_k$$, $$\bar x_k = \bar y_k$$, $${}$$),
    ($$total$$, 1, NULL, $$k inputs of one shape -> same$$, $$y = ((x_1 + x_2) + x_3) + \dots$$,
        $$\bar x_k = \bar y$$, $${}$$),
    ($$ones_like$$, 1, 1, $$same$$, $$y = 1$$, $$\text{none: } y \text{ does not depend on } x$$, $${}$$),
    ($$zeros_like$$, 1, 1, $$same$$, $$y = 0$$, $$\text{none: } y \text{ does not depend on } x$$, $${}$$),
    ($$conv2d$$, 2, 3, $$(B,C,H,W), (OC,C/groups,KH,KW), (OC) -> (B,OC,OH,OW)$$,
        $$y_{o,i,j} = b_o + \textstyle\sum_{c,u,v} w_{o,c,u,v}\, x_{c,\,si+u-p,\,sj+v-p}$$,
        $$\bar w_{o,c,u,v} = \textstyle\sum_{i,j} \bar y_{o,i,j}\, x_{c,\,si+u-p,\,sj+v-p},\quad
        \bar x_{c,k,l} = \textstyle\sum \bar y_{o,i,j}\, w_{o,c,u,v} \text{ over all } si+u-p=k,\ sj+v-p=l,\quad
        \bar b_o = \textstyle\sum_{i,j} \bar y_{o,i,j}$$,
        $${"stride": "s, 1 where absent",
        "padding": "p zeros on each side, or a list: above, below, left, right; 0 where absent",
        "groups": "parts into which channels and output channels are divided, 1 where absent"}$$),
    ($$groupnorm$$, 3, 3, $$(B,C,…), (C), (C) -> (B,C,…)$$,
        $$y = n \odot \gamma + \beta,\quad n = (x - \mu) / \sqrt{\sigma^2 + \epsilon}
        \text{, mean and variance over a group of channels}$$,
        $$\bar x = (d - \operatorname{mean} d - n \operatorname{mean}(d \odot n)) / \sqrt{\sigma^2 + \epsilon},\
        d = \bar y \odot \gamma;\quad
        \bar\gamma = \textstyle\sum \bar y \odot n,\quad \bar\beta = \textstyle\sum \bar y$$,
        $${"groups": "1 where absent", "eps": "1e-5 where absent"}$$),
    ($$upsample$$, 1, 1, $$(…,H,W) -> (…,F*H,F*W)$$, $$y_{i,j} = x_{\lfloor i/F \rfloor,\,\lfloor j/F \rfloor}$$,
        $$\bar x_{i,j} = \textstyle\sum_{u,v<F} \bar y_{Fi+u,\,Fj+v}$$, $${"factor": "F, 2 where absent"}$$),
    ($$avgpool$$, 1, 1, $$(…,H,W) -> (…,H/F,W/F)$$, $$y_{i,j} = F^{-2} \textstyle\sum_{u,v<F} x_{Fi+u,\,Fj+v}$$,
        $$\bar x_{i,j} = F^{-2}\, \bar y_{\lfloor i/F \rfloor,\,\lfloor j/F \rfloor},\quad
        0 \text{ outside of every window}$$,
        $${"factor": "F, 2 where absent"}$$);

GRANT SELECT ON llm_op, llm_model_version, llm_bpe_config TO PUBLIC;
