target_link_libraries(${room_target} PUBLIC xxhash)
