//! Graph of a backbone in ONNX's operator set 17. Values have the names of timm's modules.

use super::proto::{AttributeProto, FLOAT, INT64, NodeProto, TensorProto};
use crate::models::vit::VitConfig;
use std::borrow::Cow;
use std::io;

/// Name of the graph's input.
pub(super) const INPUT: &str = "pixel_values";
/// Channels of an image.
pub(super) const CHANNELS: usize = 3;
/// Function that returns a parameter's elements by timm's name.
pub(super) type FindParameter<'f, 'p> = &'f dyn Fn(&str) -> Option<&'p [f32]>;

/// Nodes in the order of execution, and the constants that they read.
pub(super) struct Graph<'f, 'p> {
    config: VitConfig,
    parameter: FindParameter<'f, 'p>,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: Vec<Constant<'p>>,
}

/// Constant. Its bytes are made on demand, so the parameters are never copied as a whole.
pub(super) struct Constant<'p> {
    pub(super) name: String,
    dims: Vec<usize>,
    data: Data<'p>,
}

enum Data<'p> {
    Floats(Cow<'p, [f32]>),
    Integers(Vec<i64>),
}

impl<'f, 'p> Graph<'f, 'p> {
    /// Builds the graph from the input to the outputs `tokens`, `class` and `mean`.
    ///
    /// # Errors
    /// A parameter that is missing or has the wrong size.
    pub(super) fn build(config: &VitConfig, parameter: FindParameter<'f, 'p>) -> io::Result<Self> {
        let mut graph = Graph { config: config.clone(), parameter, nodes: Vec::new(), constants: Vec::new() };
        let (width, heads, tokens) = (config.width as i64, config.heads as i64, config.tokens() as i64);
        // A reshape may leave one size open (-1), here the batch, so no shape is computed at run
        // time.
        graph.integers("shape.rows", &[-1, width]);
        graph.integers("shape.tokens", &[-1, tokens, width]);
        graph.integers("shape.heads", &[-1, tokens, heads, width / heads]);
        graph.number("attention.scale", (1.0 / (width as f64 / heads as f64).sqrt()) as f32);
        graph.number("gelu.sqrt2", std::f32::consts::SQRT_2);
        graph.number("gelu.one", 1.0);
        graph.number("gelu.half", 0.5);
        let mut x = graph.embed()?;
        for i in 0..config.depth {
            x = graph.block(&format!("blocks.{i}"), &x)?;
        }
        graph.outputs(&x)?;
        Ok(graph)
    }

    /// Embeds pixels `[batch, 3, image, image]` as rows of tokens `[batch · tokens, width]`. Only
    /// the attention needs to know which rows belong to an image.
    fn embed(&mut self) -> io::Result<String> {
        let VitConfig { width, patch, .. } = self.config;
        let prefix = self.config.prefix() as i64;
        self.parameter("patch_embed.proj.weight", &[width, CHANNELS, patch, patch])?;
        self.parameter("patch_embed.proj.bias", &[width])?;
        let side = [patch as i64; 2];
        let inputs = [INPUT, "patch_embed.proj.weight", "patch_embed.proj.bias"];
        let sizes = vec![AttributeProto::ints("kernel_shape", &side), AttributeProto::ints("strides", &side)];
        let x = self.node("Conv", &inputs, "patch_embed.proj", sizes);
        self.integers("patch_embed.shape", &[0, width as i64, -1]);
        let x = self.node("Reshape", &[&x, "patch_embed.shape"], "patch_embed.flatten", vec![]);
        let x = self.transpose(&x, &[0, 2, 1], "patch_embed");
        // Zeros reserve rows for the class token and the registers, which the constant below adds.
        // A concatenation would have to repeat them for the batch, whose size is unknown.
        self.integers("prefix.pads", &[0, prefix, 0, 0, 0, 0]);
        let x = self.node("Pad", &[&x, "prefix.pads"], "prefix.room", vec![]);
        self.prefix_and_positions()?;
        let x = self.node("Add", &[&x, "prefix_and_positions"], "embedded", vec![]);
        Ok(self.node("Reshape", &[&x, "shape.rows"], "embedded.rows", vec![]))
    }

    /// Adds the constant for the tokens of every image: the class token plus its position, the
    /// registers, and the patches' positions.
    fn prefix_and_positions(&mut self) -> io::Result<()> {
        let VitConfig { width, registers, .. } = self.config;
        let tokens = self.config.tokens();
        let class = self.find("cls_token", &[1, 1, width])?;
        let positions = self.find("pos_embed", &[1, tokens - registers, width])?;
        let (first, others) = positions.split_at(width);
        let mut rows: Vec<f32> = class.iter().zip(first).map(|(token, position)| token + position).collect();
        if registers > 0 {
            rows.extend_from_slice(self.find("reg_token", &[1, registers, width])?);
        }
        rows.extend_from_slice(others);
        self.constant("prefix_and_positions", vec![1, tokens, width], Data::Floats(rows.into()));
        Ok(())
    }

    /// Adds a block: x + attention(norm1(x)), then x + mlp(norm2(x)).
    fn block(&mut self, name: &str, x: &str) -> io::Result<String> {
        let VitConfig { width, mlp, .. } = self.config;
        let y = self.norm(x, &format!("{name}.norm1"))?;
        let y = self.linear(&y, &format!("{name}.attn.qkv"), width, 3 * width)?;
        let y = self.attention(&y, &format!("{name}.attn"));
        let y = self.linear(&y, &format!("{name}.attn.proj"), width, width)?;
        let x = self.residual(x, &y, name, 1)?;
        let y = self.norm(&x, &format!("{name}.norm2"))?;
        let y = self.linear(&y, &format!("{name}.mlp.fc1"), width, mlp)?;
        let y = self.gelu(&y, &format!("{name}.mlp.act"));
        let y = self.linear(&y, &format!("{name}.mlp.fc2"), mlp, width)?;
        self.residual(&x, &y, name, 2)
    }

    /// Adds the attention: rows `[.., 3 · width]` of queries, keys and values -> rows `[..,
    /// width]`.
    fn attention(&mut self, qkv: &str, name: &str) -> String {
        let parts = ["q", "k", "v"].map(|part| format!("{name}.{part}"));
        self.nodes.push(NodeProto {
            input: vec![qkv.into()],
            output: parts.to_vec(),
            name: format!("{name}.split"),
            op_type: "Split".into(),
            attribute: vec![AttributeProto::int("axis", -1)],
        });
        let [q, k, v] = parts.map(|part| {
            let heads = self.node("Reshape", &[&part, "shape.heads"], &format!("{part}.heads"), vec![]);
            let order = if part.ends_with('k') { [0, 2, 3, 1] } else { [0, 2, 1, 3] };
            self.transpose(&heads, &order, &format!("{part}.by_head"))
        });
        let q = self.node("Mul", &[&q, "attention.scale"], &format!("{name}.q.scaled"), vec![]);
        let scores = self.node("MatMul", &[&q, &k], &format!("{name}.scores"), vec![]);
        let weights = self.node("Softmax", &[&scores], &format!("{name}.softmax"), vec![AttributeProto::int("axis", -1)]);
        let y = self.node("MatMul", &[&weights, &v], &format!("{name}.heads"), vec![]);
        let y = self.transpose(&y, &[0, 2, 1, 3], &format!("{name}.by_token"));
        self.node("Reshape", &[&y, "shape.rows"], name, vec![])
    }

    /// Adds y · (1 + erf(y / √2)) / 2. Runtimes recognize this order of operations as a GELU, for
    /// which set 17 has no operator.
    fn gelu(&mut self, y: &str, name: &str) -> String {
        let e = self.node("Div", &[y, "gelu.sqrt2"], &format!("{name}.div"), vec![]);
        let e = self.node("Erf", &[&e], &format!("{name}.erf"), vec![]);
        let e = self.node("Add", &[&e, "gelu.one"], &format!("{name}.add"), vec![]);
        let e = self.node("Mul", &[y, &e], &format!("{name}.mul"), vec![]);
        self.node("Mul", &[&e, "gelu.half"], name, vec![])
    }

    /// Adds x + y, with y scaled by LayerScale if the model has it. `half` is 1 for the attention,
    /// 2 for the MLP.
    fn residual(&mut self, x: &str, y: &str, name: &str, half: usize) -> io::Result<String> {
        let mut y = y.to_string();
        if self.config.layer_scale != 0.0 {
            let gamma = format!("{name}.ls{half}.gamma");
            self.parameter(&gamma, &[self.config.width])?;
            y = self.node("Mul", &[&y, &gamma], &format!("{name}.ls{half}"), vec![]);
        }
        Ok(self.node("Add", &[x, &y], &format!("{name}.residual{half}"), vec![]))
    }

    fn norm(&mut self, x: &str, name: &str) -> io::Result<String> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.parameter(&weight, &[self.config.width])?;
        self.parameter(&bias, &[self.config.width])?;
        let settings = vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", self.config.norm_eps)];
        Ok(self.node("LayerNormalization", &[x, &weight, &bias], name, settings))
    }

    /// Adds a linear layer as `Gemm`, which takes timm's weights `[outputs, inputs]`. onnxruntime
    /// packs them once, so it is as fast as a `MatMul` of transposed weights.
    fn linear(&mut self, x: &str, name: &str, inputs: usize, outputs: usize) -> io::Result<String> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.parameter(&weight, &[outputs, inputs])?;
        self.parameter(&bias, &[outputs])?;
        Ok(self.node("Gemm", &[x, &weight, &bias], name, vec![AttributeProto::int("transB", 1)]))
    }

    fn transpose(&mut self, x: &str, order: &[i64], name: &str) -> String {
        self.node("Transpose", &[x], name, vec![AttributeProto::ints("perm", order)])
    }

    /// Adds the final norm and the outputs: the tokens of each image and the two features.
    fn outputs(&mut self, x: &str) -> io::Result<()> {
        let x = self.norm(x, "norm")?;
        let tokens = self.node("Reshape", &[&x, "shape.tokens"], "tokens", vec![]);
        self.constant("class.index", vec![], Data::Integers(vec![0]));
        self.node("Gather", &[&tokens, "class.index"], "class", vec![AttributeProto::int("axis", 1)]);
        self.integers("patches.start", &[self.config.prefix() as i64]);
        self.integers("patches.end", &[self.config.tokens() as i64]);
        self.integers("patches.axis", &[1]);
        let patches = self.node("Slice", &[&tokens, "patches.start", "patches.end", "patches.axis"], "patches", vec![]);
        self.node("ReduceMean", &[&patches], "mean", vec![AttributeProto::ints("axes", &[1]), AttributeProto::int("keepdims", 0)]);
        Ok(())
    }

    /// Adds an operation with one output. The operation and its output have the same name, which is
    /// returned.
    fn node(&mut self, operator: &str, inputs: &[&str], name: &str, attribute: Vec<AttributeProto>) -> String {
        let input = inputs.iter().map(|input| input.to_string()).collect();
        self.nodes.push(NodeProto { input, output: vec![name.into()], name: name.into(), op_type: operator.into(), attribute });
        name.into()
    }

    /// Adds a parameter as a constant under its own name.
    fn parameter(&mut self, name: &str, dims: &[usize]) -> io::Result<()> {
        let data = self.find(name, dims)?;
        self.constant(name, dims.to_vec(), Data::Floats(data.into()));
        Ok(())
    }

    fn find(&self, name: &str, dims: &[usize]) -> io::Result<&'p [f32]> {
        let data = (self.parameter)(name).ok_or_else(|| invalid(format!("the backbone has no parameter `{name}`")))?;
        let expected = dims.iter().fold(1usize, |all, size| all.saturating_mul(*size));
        if data.len() != expected {
            return Err(invalid(format!("`{name}` has {} elements where {dims:?} is needed", data.len())));
        }
        Ok(data)
    }

    fn integers(&mut self, name: &str, values: &[i64]) {
        self.constant(name, vec![values.len()], Data::Integers(values.into()));
    }

    fn number(&mut self, name: &str, value: f32) {
        self.constant(name, vec![], Data::Floats(vec![value].into()));
    }

    fn constant(&mut self, name: &str, dims: Vec<usize>, data: Data<'p>) {
        self.constants.push(Constant { name: name.into(), dims, data });
    }
}

impl Constant<'_> {
    /// Returns the constant without its elements.
    pub(super) fn head(&self) -> TensorProto {
        let data_type = match &self.data {
            Data::Floats(_) => FLOAT,
            Data::Integers(_) => INT64,
        };
        let dims = self.dims.iter().map(|size| *size as i64).collect();
        TensorProto { dims, data_type, name: self.name.clone(), ..TensorProto::default() }
    }

    /// Returns the size of the elements in bytes.
    pub(super) fn size(&self) -> usize {
        match &self.data {
            Data::Floats(values) => size_of_val(&values[..]),
            Data::Integers(values) => size_of_val(&values[..]),
        }
    }

    /// Returns the elements in little-endian order.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::Floats(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Integers(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
}

/// Makes the error about a backbone that cannot be exported.
pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
