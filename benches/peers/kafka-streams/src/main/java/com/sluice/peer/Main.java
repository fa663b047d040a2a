package com.sluice.peer;
public final class Main { public static void main(String[] a) {} }
