//! The module that is tested: compiled once, with every import that it names linked to ours.

use crate::imports;
use crate::state::VmState;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use wasmi::{Engine, Error, ExternType, Instance, Linker, Module, Store, Val};

/// A compiled module. Compile it once: tests make thousands of VMs of it.
#[derive(Clone)]
pub struct Guest {
    module: Module,
    linker: Arc<Linker<VmState>>,
}

impl Guest {
    /// Compiles a module, binary or text.
    ///
    /// # Errors
    /// Why it is no module that a host could load.
    pub fn compile(wasm: &[u8]) -> Result<Self, String> {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).map_err(|error| error.to_string())?;
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let (from, name) = (import.module().to_owned(), import.name().to_owned());
            let ExternType::Func(ty) = import.ty() else {
                return Err(format!("the module imports {from}.{name}, which is no function"));
            };
            let ty = ty.clone();
            // A name that occurs twice with different types is not ours to sort out.
            linker
                .func_new(&from.clone(), &name.clone(), ty, move |mut caller, args, results| {
                    let status = imports::answer(&mut caller, &from, &name, args)?;
                    if let Some(result) = results.first_mut() {
                        *result = Val::I32(status as i32);
                    }
                    Ok(())
                })
                .map_err(|error| error.to_string())?;
        }
        Ok(Self { module, linker: Arc::new(linker) })
    }

    /// The module that `RESILIENCE_WASM` names, compiled once per test process.
    ///
    /// # Panics
    /// If the variable is not set, or the file cannot be read or is no module.
    #[must_use]
    pub fn under_test() -> Self {
        static GUEST: OnceLock<Guest> = OnceLock::new();
        GUEST
            .get_or_init(|| {
                let path = std::env::var("RESILIENCE_WASM").unwrap_or_else(|_| {
                    panic!(
                        "RESILIENCE_WASM is not set: it has to hold the absolute path of the module under test; \
                         `make build` leaves it at dist/resilience.wasm"
                    )
                });
                let wasm = std::fs::read(Path::new(&path)).unwrap_or_else(|error| {
                    panic!("RESILIENCE_WASM={path}: {error}; `make build` leaves the module at dist/resilience.wasm")
                });
                Guest::compile(&wasm).unwrap_or_else(|error| panic!("RESILIENCE_WASM={path}: {error}"))
            })
            .clone()
    }

    /// Makes a VM of it with this state, without calling anything that it exports.
    pub(crate) fn instantiate(&self, state: VmState) -> Result<(Store<VmState>, Instance), Error> {
        let mut store = Store::new(self.module.engine(), state);
        let instance = self.linker.instantiate_and_start(&mut store, &self.module)?;
        Ok((store, instance))
    }

    /// The imports, as `module.name`.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        self.module.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
    }

    /// The exports' names.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        self.module.exports().map(|export| export.name().to_owned()).collect()
    }
}
