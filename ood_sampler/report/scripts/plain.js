// A page without pictures to choose.

root.dataset.ready = "yes";
