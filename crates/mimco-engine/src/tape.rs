//! The tape: operators in the order of their execution, each with the data that its backward pass
//! needs.

use crate::cpu::matmul::Panels;
use crate::cpu::threads::for_each_chunk;
use crate::cpu::vector;
use crate::device::Device;
use crate::element::Precision;
use crate::gradients::Gradients;
use crate::parameters::{ParameterId, Parameters};
use crate::tensor::{Shape, Tensor};
use std::sync::Arc;

/// A value on a tape. A value without a node gets no gradient.
#[derive(Clone)]
pub struct Var {
    /// The value.
    pub value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// Wraps a value that gets no gradient, such as an image or a frozen teacher's feature.
    pub fn constant(value: Tensor) -> Var {
        Var { value, node: None }
    }

    /// Returns the same value with another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Var {
        // Backward passes read gradients as rows of the last size, so the shape needs no record.
        Var { value: self.value.reshape(shape), node: self.node }
    }

    /// Node of the tape that collects this value's gradient, if it gets one.
    pub fn node(&self) -> Option<usize> {
        self.node
    }
}

type Backward<'a> = Box<dyn FnOnce(Tensor, &mut Backpass<'_>) + 'a>;

/// Runs operators on a model's parameters and, when recording, keeps what the backward pass needs.
///
/// ```
/// use mimco_engine::ops::{Activation, Layer};
/// use mimco_engine::{Parameters, Tape, Tensor};
///
/// let mut parameters = Parameters::new();
/// let weight = parameters.add("weight", &[1, 2]);
/// parameters.update_on_host(weight, |w| w.copy_from_slice(&[0.5, -1.0]));
///
/// let mut tape = Tape::recording(&parameters);
/// let x = tape.leaf(Tensor::from_slice([1, 2], &[4.0, 3.0]));
/// let y = tape.linear(&x, Layer { weight, bias: None }, Activation::None);
/// assert_eq!(y.value.item(), 0.5 * 4.0 - 1.0 * 3.0);
///
/// let mut gradients = parameters.gradients();
/// let dx = tape.backward(&y, Tensor::scalar(1.0), &mut gradients, Some(&x)).unwrap();
/// assert_eq!(*gradients.to_host(weight), [4.0, 3.0]);
/// assert_eq!(*dx.to_host(), [0.5, -1.0]);
/// ```
pub struct Tape<'a> {
    parameters: &'a Parameters,
    /// Backward passes in the order of recording; `None` for leaves.
    nodes: Vec<Option<Backward<'a>>>,
    recording: bool,
    /// Whether packed weights are kept for the next pass.
    keeps_packed: bool,
}

impl<'a> Tape<'a> {
    /// Returns a tape that records, for training.
    pub fn recording(parameters: &'a Parameters) -> Tape<'a> {
        Tape { parameters, nodes: Vec::new(), recording: true, keeps_packed: false }
    }

    /// Returns a tape that does not record, for inference. Packed weights are kept in the
    /// parameters for later passes.
    pub fn inference(parameters: &'a Parameters) -> Tape<'a> {
        Tape { parameters, nodes: Vec::new(), recording: false, keeps_packed: true }
    }

    /// The parameters that the operators read.
    pub fn parameters(&self) -> &'a Parameters {
        self.parameters
    }

    /// The device that runs the operators: that of the parameters.
    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    /// Precision of products and of stored activations.
    pub fn precision(&self) -> Precision {
        self.parameters.precision()
    }

    /// Returns a matrix W [outputs, inputs] packed as the right factor of x Wᵀ. In training it is
    /// packed for each use, since every step changes it.
    pub(crate) fn packed(&self, weight: ParameterId) -> Arc<Panels> {
        if self.keeps_packed {
            self.parameters.panels(weight)
        } else {
            Arc::new(Panels::of_transpose(self.parameters.matrix(weight), self.precision()))
        }
    }

    /// Records a value whose gradient [`Tape::backward`] returns.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        self.nodes.push(None);
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Whether any of these inputs or parameters needs a gradient.
    pub fn wants_gradient(&self, inputs: &[&Var], parameters: &[ParameterId]) -> bool {
        self.recording && (inputs.iter().any(|v| v.node.is_some()) || parameters.iter().any(|&p| self.parameters.entry(p).trainable))
    }

    /// Records an operator's result with its backward pass. Operators call it after
    /// [`Tape::wants_gradient`].
    pub fn record(&mut self, value: Tensor, backward: impl FnOnce(Tensor, &mut Backpass<'_>) + 'a) -> Var {
        self.nodes.push(Some(Box::new(backward)));
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Runs the backward pass from `output`, whose gradient is `seed`, and adds the parameters'
    /// gradients to `gradients`.
    ///
    /// Returns the gradient of the leaf `wanted`, if one is given and the output depends on it.
    ///
    /// # Panics
    /// If `gradients` does not have the layout of the tape's parameters.
    pub fn backward(self, output: &Var, seed: Tensor, gradients: &mut Gradients, wanted: Option<&Var>) -> Option<Tensor> {
        assert_eq!(gradients.flat_len(), self.parameters.flat_len(), "gradients of other parameters");
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

    /// Runs `part` as one entry of the tape that keeps only its input. The backward pass runs
    /// `part` again, which saves memory for the cost of one more forward pass.
    ///
    /// `part` must not use other values of this tape.
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

/// State of a backward pass, for the operators.
pub struct Backpass<'p> {
    parameters: &'p Parameters,
    gradients: &'p mut Gradients,
    slots: Vec<Option<Tensor>>,
}

impl<'p> Backpass<'p> {
    /// A parameter's elements in main memory.
    pub(crate) fn parameter(&self, id: ParameterId) -> &'p [f32] {
        self.parameters.get(id)
    }

    /// Precision of products.
    pub fn precision(&self) -> Precision {
        self.parameters.precision()
    }

    /// A parameter's gradient in main memory, to add to. `None` if the parameter is not trained.
    pub(crate) fn gradient(&mut self, id: ParameterId) -> Option<&mut [f32]> {
        self.parameters.entry(id).trainable.then(|| self.gradients.get_mut(id))
    }

    /// Takes the gradient that a value has collected so far, for an operator that adds to it in its
    /// own pass over the rows.
    pub fn take(&mut self, node: Option<usize>) -> Option<Tensor> {
        self.slots[node?].take()
    }

    /// Adds to the gradient of a value. Does nothing if the value gets none.
    ///
    /// # Panics
    /// If a value in bf16 gets a second gradient.
    pub fn add(&mut self, node: Option<usize>, gradient: Tensor) {
        let Some(node) = node else { return };
        match &mut self.slots[node] {
            empty @ None => *empty = Some(gradient),
            Some(sum) => {
                assert_eq!(gradient.precision(), Precision::F32, "a value in bf16 has one reader");
                match sum.device() {
                    Device::Cpu => add_on_cpu(sum, &gradient),
                }
            }
        }
    }
}

fn add_on_cpu(sum: &mut Tensor, gradient: &Tensor) {
    const CHUNK: usize = 16 * 1024;
    let other = gradient.data();
    for_each_chunk(sum.data_mut(), CHUNK, |i, sum| vector::add(sum, &other[i * CHUNK..][..sum.len()]));
}
