# The rooms of the house and the arrows between them: a room may include the headers of the rooms named
# after it, and of nothing else. Every room may use base and obs; obs may use base. The test
# tests/architecture/check_arrows.py reads this file and holds every #include against it.
#
# trireme_arrows(<room> <rooms it may include>...); "api" is include/trireme.
function(trireme_arrows room)
  set_property(GLOBAL APPEND PROPERTY TRIREME_ROOMS ${room})
  set_property(GLOBAL PROPERTY TRIREME_ARROWS_${room} ${ARGN})
endfunction()

trireme_arrows(api)
trireme_arrows(base          api)
trireme_arrows(obs)
trireme_arrows(tensor)
trireme_arrows(formats       tensor)
trireme_arrows(ops           tensor formats)
trireme_arrows(backends/cpu  ops tensor formats)
trireme_arrows(backends/cuda ops tensor formats)
trireme_arrows(layers        ops tensor formats)
trireme_arrows(models        layers ops tensor formats)
trireme_arrows(text)
trireme_arrows(kv            formats tensor)
trireme_arrows(sched         kv formats api)
trireme_arrows(engine        models sched kv backends/cpu backends/cuda layers ops tensor formats api)
trireme_arrows(server        text api)
trireme_arrows(cli           server engine models text sched kv backends/cpu backends/cuda layers ops tensor formats api)
