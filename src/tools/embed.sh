#!/bin/sh
# Writes the assembler file that embeds Lua files as text: embed.sh FOLDER FILE... > embedded.S
# Files are given relative to FOLDER; a/b/init.lua is the module a.b. Output is sorted by module name.
set -eu
folder=$1
shift
list=$(for file; do
  module=$(printf '%s' "${file%.lua}" | sed 's|/init$||; s|/|.|g')
  printf '%s %s\n' "$module" "$file"
done | LC_ALL=C sort)

echo '    .section .rodata'
i=0
echo "$list" | while read -r module file; do
  printf '.Lmodule%d: .asciz "%s"\n.Lpath%d: .asciz "%s"\n' $i "$module" $i "$file"
  printf '.Ltext%d: .incbin "%s/%s"\n.Lend%d: .byte 0\n' $i "$folder" "$file" $i
  i=$((i + 1))
done
echo '    .section .data.rel.ro, "aw"'
echo '    .balign 8'
echo '    .globl rvl_embedded_files'
echo '    .hidden rvl_embedded_files'
echo 'rvl_embedded_files:'
i=0
echo "$list" | while read -r module file; do
  printf '    .quad .Lmodule%d, .Lpath%d, .Ltext%d, .Lend%d - .Ltext%d\n' $i $i $i $i $i
  i=$((i + 1))
done
echo '    .section .rodata'
echo '    .balign 8'
echo '    .globl rvl_embedded_count'
echo '    .hidden rvl_embedded_count'
echo "rvl_embedded_count: .quad $#"
echo '    .section .note.GNU-stack, "", %progbits'
