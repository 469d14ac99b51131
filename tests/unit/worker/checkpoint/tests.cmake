foreach(name checkpoint_list pth_reader safetensors_reader unpickle)
  muster_test(SRC unit/worker/checkpoint/${name}_test.cc LABELS unit
    DEPS muster::worker_checkpoint muster::pth_builder muster::testing)
endforeach()
