//! The tape: operators in the order they ran, each with what its backward pass needs.

use crate::cpu::matmul::Panels;
use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector;
use crate::{ParameterId, Parameters, Precision, Tensor};
use std::sync::Arc;

/// A value on a tape. Without a node no gradient flows into it.
#[derive(Clone)]
pub struct Var {
    /// The value.
    pub value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that gets no gradient: an image, a frozen teacher's feature.
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// The same value under another shape; the gradient comes back flat, so the shape need not.
    pub fn reshape(&self, shape: impl Into<crate::Shape>) -> Var {
        Var { value: self.value.reshape(shape), node: self.node }
    }

    /// Where the gradient of this value is collected, if it gets one.
    pub fn node(&self) -> Option<usize> {
        self.node
    }
}

type Backward<'a> = Box<dyn FnOnce(Tensor, &mut Backpass<'_>) + 'a>;

/// Runs operators on a model's parameters and, when recording, remembers how to go back.
pub struct Tape<'a> {
    parameters: &'a Parameters,
    /// `None` for leaves.
    nodes: Vec<Option<Backward<'a>>>,
    recording: bool,
    /// Whether packed weights are kept for the next pass.
    keeps_packed: bool,
}

impl<'a> Tape<'a> {
    /// A tape that records, for training.
    pub fn recording(parameters: &'a Parameters) -> Tape<'a> {
        Tape { parameters, nodes: Vec::new(), recording: true, keeps_packed: false }
    }

    /// A tape that keeps nothing, for inference: only the weights stay packed, since the next pass often finds them as they are.
    pub fn inference(parameters: &'a Parameters) -> Tape<'a> {
        Tape { parameters, nodes: Vec::new(), recording: false, keeps_packed: true }
    }

    /// The parameters that the operators read.
    pub fn parameters(&self) -> &'a Parameters {
        self.parameters
    }

    /// What the parameters' products are worked out in, and activations kept in.
    pub fn precision(&self) -> Precision {
        self.parameters.precision()
    }

    /// A matrix W with a row an output as the right factor of x Wᵀ. In training it changes with every step, and is packed when it is asked for.
    pub(crate) fn packed(&self, weight: ParameterId) -> Arc<Panels> {
        if self.keeps_packed {
            self.parameters.panels(weight)
        } else {
            Arc::new(Panels::of_transpose(self.parameters.matrix(weight), self.precision()))
        }
    }

    /// A value whose gradient [`Tape::backward`] returns.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        self.nodes.push(None);
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Whether a gradient is wanted for any of these inputs or parameters.
    pub fn wants_gradient(&self, inputs: &[&Var], parameters: &[ParameterId]) -> bool {
        self.recording && (inputs.iter().any(|v| v.node.is_some()) || parameters.iter().any(|&p| self.parameters.entry(p).trainable))
    }

    /// Appends an operator's result with its way back; for operators, after [`Tape::wants_gradient`].
    pub fn record(&mut self, value: Tensor, backward: impl FnOnce(Tensor, &mut Backpass<'_>) + 'a) -> Var {
        self.nodes.push(Some(Box::new(backward)));
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Walks back from `output`, whose gradient is `seed`, adding parameter gradients to `gradients` (a flat buffer laid
    /// out as the parameters). Returns the gradient of the leaf `wanted`, if one is given and the output depends on it.
    pub fn backward(self, output: &Var, seed: Tensor, gradients: &mut [f32], wanted: Option<&Var>) -> Option<Tensor> {
        let mut pass = Backpass { parameters: self.parameters, gradients, slots: Vec::new() };
        pass.slots.resize_with(self.nodes.len(), || None);
        pass.add(output.node, seed);
        for (index, backward) in self.nodes.into_iter().enumerate().rev() {
            if let Some(backward) = backward
                && let Some(gradient) = pass.slots[index].take()
            {
                backward(gradient, &mut pass);
            }
        }
        pass.slots[wanted?.node?].take()
    }

    /// Runs `part` as one entry of the tape: only its input is kept, and the backward pass runs it once more
    /// (recomputation: less memory for one more forward). `part` may use no other value of this tape.
    pub fn recompute(&mut self, input: &Var, part: impl Fn(&mut Tape<'a>, &Var) -> Var + 'a) -> Var {
        if !self.recording {
            return part(self, input);
        }
        let parameters = self.parameters;
        let output = part(&mut Tape { keeps_packed: false, ..Tape::inference(parameters) }, &Var::constant(input.value.clone())).value;
        let input = input.clone();
        self.record(output, move |gradient, pass| {
            let mut tape = Tape::recording(parameters);
            let leaf = tape.leaf(input.value.clone());
            let output = part(&mut tape, &leaf);
            if let Some(gradient) = tape.backward(&output, gradient, pass.gradients, Some(&leaf)) {
                pass.add(input.node, gradient);
            }
        })
    }
}

/// The state of a backward pass, as an operator sees it.
pub struct Backpass<'p> {
    parameters: &'p Parameters,
    gradients: &'p mut [f32],
    slots: Vec<Option<Tensor>>,
}

impl<'p> Backpass<'p> {
    /// A parameter's elements.
    pub fn parameter(&self, id: ParameterId) -> &'p [f32] {
        self.parameters.get(id)
    }

    /// What products are worked out in.
    pub fn precision(&self) -> Precision {
        self.parameters.precision()
    }

    /// A parameter's gradient, to add to; `None` where the parameter is not trained.
    pub fn gradient(&mut self, id: ParameterId) -> Option<&mut [f32]> {
        let entry = self.parameters.entry(id);
        entry.trainable.then(|| &mut self.gradients[entry.range.clone()])
    }

    /// Takes out what the gradient of a value has come to so far, for an operator that adds to it in its own pass over it.
    pub fn take(&mut self, node: Option<usize>) -> Option<Tensor> {
        self.slots[node?].take()
    }

    /// Adds to the gradient of a value; nothing where the value gets none.
    pub fn add(&mut self, node: Option<usize>, gradient: Tensor) {
        let Some(node) = node else { return };
        match &mut self.slots[node] {
            empty @ None => *empty = Some(gradient),
            Some(sum) => {
                const CHUNK: usize = 16 * 1024;
                assert_eq!(gradient.precision(), Precision::F32, "a value in bf16 has one reader");
                let other = gradient.data();
                for_each_chunk(sum.data_mut(), CHUNK, |i, sum| vector::add(sum, &other[i * CHUNK..][..sum.len()]));
            }
        }
    }
}
