//! Parameters of a model: named ranges of one flat block of memory, with a table of their
//! learning-rate and decay factors.

use crate::cpu::flat;
use crate::cpu::matmul::{Operand, Panels};
use crate::device::{Device, Memory};
use crate::element::{Precision, Values};
use crate::tensor::Tensor;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Index of a parameter in the table of its [`Parameters`]. Functions that take it panic if their
/// table has no such row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

impl ParameterId {
    /// Position in the table.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the parameter, as in timm.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Range of the elements in the flat memory.
    pub range: Range<usize>,
    /// Whether the parameter gets a gradient and is updated.
    pub trainable: bool,
    /// Factor of the weight decay. 0 for the biases, norms, positions and tokens that a recipe
    /// exempts.
    pub decay: f32,
    /// Factor of the learning rate. Set it with [`Parameters::entry_mut`].
    pub rate: f32,
}

/// Named parameters in one flat block of memory. [`Gradients`](crate::Gradients) and an optimizer's
/// moments have the same layout.
pub struct Parameters {
    entries: Vec<Entry>,
    memory: Memory,
    precision: Precision,
    packed: Mutex<Vec<Option<Arc<Panels>>>>,
}

impl Default for Parameters {
    fn default() -> Parameters {
        let memory = Memory::zeros(Device::Cpu, 0);
        Parameters { entries: Vec::new(), memory, precision: Precision::default(), packed: Mutex::default() }
    }
}

impl Clone for Parameters {
    fn clone(&self) -> Parameters {
        let packed = Mutex::default(); // each packs its own weights
        Parameters { entries: self.entries.clone(), memory: self.memory.clone(), precision: self.precision, packed }
    }
}

impl Parameters {
    /// Returns an empty table in main memory.
    pub fn new() -> Parameters {
        Parameters::default()
    }

    /// Adds a parameter of zeros. It is trainable, and decays only if it is a matrix (two or more
    /// dimensions above 1).
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParameterId {
        let elements: usize = shape.iter().product();
        let start = self.memory.len();
        let range = start..start + elements;
        let decay = if shape.iter().filter(|&&n| n > 1).count() >= 2 { 1.0 } else { 0.0 };
        match &mut self.memory {
            // Every range begins on a cache line; the gap remains 0.
            Memory::Cpu(buffer) => buffer.grow(range.end.next_multiple_of(16)),
        }
        self.entries.push(Entry { name: name.into(), shape: shape.to_vec(), range, trainable: true, decay, rate: 1.0 });
        self.discard_packed();
        ParameterId(self.entries.len() - 1)
    }

    /// Reserves memory for parameters of these shapes, so that adding them moves nothing.
    pub fn reserve<'a>(&mut self, shapes: impl Iterator<Item = &'a [usize]>) {
        let more: usize = shapes.map(|shape| shape.iter().product::<usize>().next_multiple_of(16)).sum();
        let len = self.memory.len() + more;
        match &mut self.memory {
            Memory::Cpu(buffer) => buffer.reserve(len),
        }
    }

    /// Returns the device that holds the parameters.
    pub fn device(&self) -> Device {
        self.memory.device()
    }

    /// The table, in the order of the flat memory.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A row of the table.
    pub fn entry(&self, id: ParameterId) -> &Entry {
        &self.entries[id.0]
    }

    /// A row of the table, to set its learning-rate factor, its decay factor or whether it is
    /// trainable.
    pub fn entry_mut(&mut self, id: ParameterId) -> &mut Entry {
        &mut self.entries[id.0]
    }

    /// All rows of the table, to set factors or trainability.
    pub fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Finds a parameter by name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.entries.iter().position(|e| e.name == name).map(ParameterId)
    }

    /// Length of the flat memory in elements, the gaps between ranges included.
    pub fn flat_len(&self) -> usize {
        self.memory.len()
    }

    /// Number of elements of the trainable parameters.
    pub fn trainable_elements(&self) -> usize {
        self.entries.iter().filter(|e| e.trainable).map(|e| e.range.len()).sum()
    }

    /// Precision of products with these parameters, and of stored activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sets the precision of products and activations. The parameters themselves stay in f32.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
        self.discard_packed();
    }

    /// Computes the Euclidean norm of the flat memory, a tensor of shape `[1]`. It is not finite if
    /// any element is not.
    pub fn norm(&self) -> Tensor {
        match &self.memory {
            Memory::Cpu(buffer) => Tensor::scalar(flat::norm(buffer)),
        }
    }

    /// Copies a parameter's elements to the host; on the CPU borrows them.
    pub fn to_host(&self, id: ParameterId) -> Cow<'_, [f32]> {
        self.memory.to_host(self.entry(id).range.clone())
    }

    /// Copies the flat memory to the host; on the CPU borrows it. [`Entry::range`] indexes it.
    pub fn flat_to_host(&self) -> Cow<'_, [f32]> {
        self.memory.to_host(0..self.memory.len())
    }

    /// Lets the host change a parameter's elements, for initialization.
    pub fn update_on_host(&mut self, id: ParameterId, update: impl FnOnce(&mut [f32])) {
        self.discard_packed();
        self.memory.update_on_host(self.entries[id.0].range.clone(), update);
    }

    /// Lets the host change the flat memory, for checkpoints. [`Entry::range`] indexes it.
    pub fn update_flat_on_host(&mut self, update: impl FnOnce(&mut [f32])) {
        self.discard_packed();
        self.memory.update_on_host(0..self.memory.len(), update);
    }

    /// A parameter's elements in main memory.
    pub(crate) fn get(&self, id: ParameterId) -> &[f32] {
        &self.flat()[self.entries[id.0].range.clone()]
    }

    /// The flat memory, in main memory.
    pub(crate) fn flat(&self) -> &[f32] {
        self.memory.cpu()
    }

    /// The flat memory, in main memory, to write.
    pub(crate) fn flat_mut(&mut self) -> &mut [f32] {
        self.split_mut().1
    }

    /// Table and flat memory at once, in main memory, for optimizers.
    pub(crate) fn split_mut(&mut self) -> (&[Entry], &mut [f32]) {
        self.discard_packed();
        (&self.entries, self.memory.cpu_mut())
    }

    /// Packs a parameter [outputs, ...], a matrix W of `outputs` rows, as the right factor of
    /// x Wᵀ. The packed form is kept until the parameters change.
    pub(crate) fn panels(&self, id: ParameterId) -> Arc<Panels> {
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.resize(self.entries.len(), None);
        packed[id.0].get_or_insert_with(|| Arc::new(Panels::of_transpose(self.matrix(id), self.precision))).clone()
    }

    /// A parameter [outputs, ...] as a matrix of `outputs` rows.
    pub(crate) fn matrix(&self, id: ParameterId) -> Operand<'_> {
        let (values, outputs) = (self.get(id), self.entry(id).shape[0]);
        Operand::new(Values::F32(values), outputs, values.len() / outputs.max(1))
    }

    /// Discards packed weights. Every function that lets elements change calls it.
    fn discard_packed(&mut self) {
        self.packed.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
