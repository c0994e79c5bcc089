#!/usr/bin/env bash
# make.sh: the clips and the picture that are drawn, not filmed (FFmpeg 5.1 with libx264; run by hand, in any folder).
set -euo pipefail
cd "$(dirname "$0")"
film() { ffmpeg -v error -y -f lavfi -i "$2" -an -c:v libx264 -preset veryslow -crf 30 -g 12 -pix_fmt yuv420p -map_metadata -1 -fflags +bitexact -flags:v +bitexact "$1"; }
size=s=160x120:r=12:d=3
film square_right.mp4 "color=c=0x103070:$size[b];color=c=0xe03020:s=36x36:r=12:d=3[s];[b][s]overlay=x='4+t*40':y=42"
film square_left.mp4 "color=c=0x103070:$size[b];color=c=0xe03020:s=36x36:r=12:d=3[s];[b][s]overlay=x='120-t*40':y=42"
film ball.mp4 "color=c=0x205020:$size,format=gbrp,geq=r='if(lt(hypot(X-80,Y-20-9*T*T),15),240,r(X,Y))':g='if(lt(hypot(X-80,Y-20-9*T*T),15),220,g(X,Y))':b='if(lt(hypot(X-80,Y-20-9*T*T),15),40,b(X,Y))'"
ffmpeg -v error -y -f lavfi -i "color=c=black:s=96x96,format=gray,geq=lum='255*mod(floor(X/12)+floor(Y/12),2)'" -frames:v 1 -map_metadata -1 -fflags +bitexact -flags:v +bitexact board.png
